"""The replay camera: lists and folders, pace, restart, bad photographs."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.camera.replay import ReplayCamera, ReplaySettings
from edge.camera.source import CAMERAS, Arrival, FrameError, SourceEnded
from edge.errors import ProcunitError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photographs that differ, and a list of them."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((40, 50), 10 * index, np.uint8))
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    path = folder / "line.csv"
    path.write_text(text)
    return path


def camera(path: Path, after_counter: int | None = None, **settings: object) -> ReplayCamera:
    validated = ReplaySettings.model_validate({"kind": "replay", "path": str(path), **settings})
    return ReplayCamera(validated, after_counter=after_counter)


def all_arrivals(replay: ReplayCamera) -> list[Arrival]:
    arrivals: list[Arrival] = []
    while True:
        try:
            arrival = replay.wait_arrival(1.0)
        except SourceEnded:
            return arrivals
        if arrival is not None:
            arrivals.append(arrival)


def test_the_kind_is_installed_and_found_by_its_name() -> None:
    assert "replay" in CAMERAS.names()
    assert CAMERAS.load("replay") is ReplayCamera
    with pytest.raises(ProcunitError, match=r"no camera kind 'webcam'.*replay"):
        CAMERAS.load("webcam")


def test_a_list_is_replayed_in_its_order_with_row_numbers_as_counters(photos: Path) -> None:
    replay = camera(listed(photos, "file,part_id,truth\n2.png,B,good\n0.png,A,scratch\n2.png,,good\n"))
    assert replay.self_paced
    seen = []
    for _ in range(3):
        arrival = replay.wait_arrival(1.0)
        assert arrival is not None
        frame = replay.read_frame(arrival)
        assert (frame.frame_id, frame.counter) == (arrival.frame_id, arrival.counter)
        seen.append((frame.counter, frame.frame_id, frame.part_id, int(frame.pixels[0, 0])))
    assert seen == [(1, "1", "B", 20), (2, "2", "A", 0), (3, "3", None, 20)]
    with pytest.raises(SourceEnded):
        replay.wait_arrival(1.0)


def test_a_folder_is_replayed_by_name_each_image_a_part(photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    assert [a.part_id for a in all_arrivals(camera(photos))] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(("after", "counters"), [(None, [1, 2, 3]), (0, [1, 2, 3]), (2, [3]), (3, []), (9, [])])
def test_after_a_restart_it_continues_with_the_next_row(photos: Path, after: int | None, counters: list[int]) -> None:
    assert [a.counter for a in all_arrivals(camera(photos, after))] == counters


def test_a_rate_spaces_the_parts_and_does_not_wait_for_a_late_reader(photos: Path) -> None:
    replay = camera(photos, parts_per_min=600)
    assert not replay.self_paced
    assert replay.wait_arrival(1.0) is not None
    assert replay.wait_arrival(0.02) is None
    time.sleep(0.25)
    late = all_arrivals(replay)
    assert [a.counter for a in late] == [2, 3]
    assert late[1].arrived_monotonic_ns - late[0].arrived_monotonic_ns == pytest.approx(1e8, abs=1000)
    assert time.monotonic_ns() - late[1].arrived_monotonic_ns >= 5e7


def test_listed_arrivals_are_kept_and_count_from_the_first_part_after_a_restart(photos: Path) -> None:
    path = listed(photos, "file,part_id,arrival_s\n0.png,A,5\n1.png,B,100\n2.png,C,100.2\n")
    arrivals = all_arrivals(camera(path, 1, parts_per_min="listed"))
    assert [a.counter for a in arrivals] == [2, 3]
    assert arrivals[1].arrived_monotonic_ns - arrivals[0].arrived_monotonic_ns == pytest.approx(2e8, abs=1000)


def test_it_may_hold_at_the_end(photos: Path) -> None:
    replay = camera(photos, 3, at_end="hold")
    started_s = time.monotonic()
    assert replay.wait_arrival(0.05) is None
    assert time.monotonic() - started_s >= 0.05


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, None])
def test_an_unreadable_photograph_affects_only_its_own_frame(photos: Path, content: bytes | None) -> None:
    (photos / "1.png").unlink()
    if content is not None:
        (photos / "1.png").write_bytes(content)
    replay = camera(listed(photos, "file,part_id\n0.png,A\n1.png,B\n2.png,C\n"))
    for readable in (True, False, True):
        arrival = replay.wait_arrival(1.0)
        assert arrival is not None
        if readable:
            assert replay.read_frame(arrival).pixels.shape == (40, 50)
        else:
            with pytest.raises(FrameError, match=r"1\.png"):
                replay.read_frame(arrival)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns \\(none\\)"),
        ("file;part_id\n0.png;A\n", "has the columns file;part_id"),
        ("file,part_id\n", "lists no part"),
        ("file,part_id\n0.png,A\n,B\n", "line.csv:3: the cell `file` is empty"),
        ("file,part_id,arrival_s\n0.png,A,soon\n", "line.csv:2: arrival_s is 'soon'"),
        ("file,part_id,arrival_s\n0.png,A,nan\n", "line.csv:2: arrival_s is 'nan'"),
        ("file,part_id,arrival_s\n0.png,A,-1\n", "line.csv:2: arrival_s is '-1'"),
        ("file,part_id,arrival_s\n0.png,A,2\n1.png,B,1\n", "part 2 arrives before the part above it"),
        ('file,part_id\n"0.png,A\n', "cannot be read"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(photos: Path, text: str, message: str) -> None:
    with pytest.raises(ProcunitError, match=message):
        camera(listed(photos, text))


def test_listed_needs_an_arrival_of_every_part(photos: Path) -> None:
    with pytest.raises(ProcunitError, match="not every part has an arrival_s"):
        camera(listed(photos, "file,part_id,arrival_s\n0.png,A,1\n1.png,B,\n"), parts_per_min="listed")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="contains no image"):
        camera(tmp_path)
