"""The frame of each part is its own: whatever a camera drops, repeats or delivers late."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.camera.source import FrameError
from edge.line.frame_matcher import MAX_AHEAD, FrameMatcher
from edge.messages import Frame
from tests.doubles.separate_sources import frame_of


class Bench:
    """A matcher on a camera's buffer."""

    def __init__(self) -> None:
        self.buffer: deque[int] = deque()
        self.reports: list[str] = []
        self.matcher = FrameMatcher(self.reports.append)

    def read(self) -> Frame:
        if not self.buffer:
            raise FrameError("the buffer is empty")
        return frame_of(self.buffer.popleft())

    def part(self, counter: int, *taken: int) -> int | None:
        """The counter that the pixels of the frame show; `taken` are the frames that reached the buffer."""
        self.buffer.extend(taken)
        try:
            frame = self.matcher.frame_of(counter, self.read)
        except FrameError:
            return None
        return None if frame is None else int(frame.pixels[0, 0])


def test_each_part_gets_its_frame_and_nothing_is_reported() -> None:
    bench = Bench()
    assert [bench.part(n, n) for n in (1, 2, 3)] == [1, 2, 3]
    assert bench.reports == []


def test_a_lost_frame_costs_its_own_part_alone() -> None:
    bench = Bench()
    assert [bench.part(1, 1), bench.part(2, 3), bench.part(3), bench.part(4, 4)] == [1, None, 3, 4]
    assert bench.reports == ["the frame of counter 2 is lost: the camera's next frame is of counter 3"]


def test_frames_lost_in_a_row_cost_their_parts_alone() -> None:
    bench = Bench()
    assert [bench.part(1, 4), bench.part(2), bench.part(3), bench.part(4), bench.part(5, 5)] == [None] * 3 + [4, 5]
    assert len(bench.reports) == 3


def test_older_frames_are_dropped_until_the_right_one_comes() -> None:
    bench = Bench()
    assert [bench.part(1, 1, 1), bench.part(2, 1, 2), bench.part(3, 3)] == [1, 2, 3]
    assert bench.reports == ["the part with counter 2 waits, and a frame of counter 1 was dropped"] * 2


def test_a_late_frame_is_not_used_for_the_next_part() -> None:
    bench = Bench()
    assert [bench.part(1), bench.part(2, 1), bench.part(3, 2, 3)] == [None, None, 3]
    assert len(bench.reports) == 2


def test_frames_that_nobody_asked_for_are_dropped_in_silence() -> None:
    bench = Bench()
    assert [bench.part(1, 1), bench.part(4, 2, 3, 4)] == [1, 4]
    assert bench.reports == []


def test_a_kept_frame_is_dropped_if_its_part_is_not_asked_for() -> None:
    bench = Bench()
    assert [bench.part(1, 2), bench.part(3, 3)] == [None, 3]


def test_a_frame_too_far_ahead_is_not_kept() -> None:
    """A counter that is wrong once must not cost every part until then."""
    bench = Bench()
    assert [bench.part(1, 1 + MAX_AHEAD + 1), bench.part(2, 2)] == [None, 2]


def test_a_counter_that_starts_anew_gets_no_frame_from_before() -> None:
    bench = Bench()
    assert [bench.part(8, 9), bench.part(2, 2), bench.part(3, 3)] == [None, 2, 3]
    assert bench.part(3, 3) == 3  # the same number again


@given(st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(0, 30), max_size=4)), max_size=15))
def test_no_part_gets_the_frame_of_another_whatever_the_camera_gives(parts: list[tuple[int, list[int]]]) -> None:
    bench, counter = Bench(), 0
    for step, taken in parts:
        counter += step
        assert bench.part(counter, *taken) in (None, counter)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=MAX_AHEAD))
def test_no_frame_that_is_there_is_wasted(copies: list[int]) -> None:
    """Frames in order, each lost or there up to three times: every part whose frame is there in time gets it."""
    bench = Bench()
    given_by_then = [n for n, times in enumerate(copies, start=1) for _ in range(times)]
    bench.buffer.extend(given_by_then)
    assert [bench.part(n) for n in range(1, len(copies) + 1)] == [
        n if times else None for n, times in enumerate(copies, start=1)
    ]


def test_the_end_of_the_time_ends_the_search() -> None:
    def read() -> Frame:
        raise FrameError("too late")

    with pytest.raises(FrameError, match="too late"):
        FrameMatcher(print).frame_of(1, read)
