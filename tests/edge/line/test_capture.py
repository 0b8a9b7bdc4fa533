"""The capture thread with triggers and frames from two devices: every trigger has one result, in order, and no part the
frame of another, whatever the camera drops, repeats or hangs in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.camera.driver import Driver
from edge.camera.source import CameraError
from edge.contract.payloads import Event
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.line.capture import Capture
from edge.line.trigger_queue import Closed, TriggerQueue
from edge.messages import MAIN_VIEW, NotInspected, Trigger
from edge.outbox.outbox import Outbox
from edge.worker import Worker, WorkerState
from tests.doubles.separate_sources import Buffer, Pulses
from tests.support.publishing import wait_until

Seen = tuple[int, int | None, NotInspected | None]
"""Counter of a trigger, what the pixels of its frame show, and why it is not inspected."""


class Bench:
    """A capture thread between two devices and a trigger queue that the test empties."""

    def __init__(self, path: Path, pulses: Pulses, buffer: Buffer, **others: Buffer) -> None:
        self.pulses = pulses
        self.buffer = buffer
        self.outbox = Outbox(path)
        self.outbox.start()
        self.board = FaultBoard(self.outbox, "edge-1")
        self.trigger_queue = TriggerQueue(64)
        frames = {name: Driver(source.open) for name, source in {MAIN_VIEW: buffer, **others}.items()}
        self.capture = Capture(Driver(pulses.open), frames, self.outbox, self.trigger_queue, self.board, 3600)
        self.worker: Worker = self.capture

    def is_in(self, state: WorkerState) -> bool:
        return self.worker.state is state

    def start(self) -> None:
        self.capture.open()
        self.capture.start()

    def next(self) -> Seen:
        """The next trigger."""
        trigger = self.trigger_queue.take(60)
        assert trigger is not None
        return seen(trigger)

    def all(self) -> list[Seen]:
        """The triggers until the queue is closed, which must have been numbered in order."""
        taken: list[Trigger] = []
        while True:
            try:
                trigger = self.trigger_queue.take(60)
            except Closed:
                break
            assert trigger is not None
            taken.append(trigger)
        assert self.outbox.flush(60)
        assert [t.seq for t in taken] == list(range(1, len(taken) + 1))
        assert [t.seq for t in self.outbox.open_triggers()] == [t.seq for t in taken]
        return [seen(trigger) for trigger in taken]

    def events(self, fault_id: FaultId) -> list[str]:
        """The details of the events of a fault."""
        assert self.outbox.flush(60)
        messages = [m for m in self.outbox.unacknowledged(0, 1000) if m.topic == "event"]
        events = [Event.model_validate_json(m.payload) for m in messages]
        return [event.detail for event in events if event.fault is fault_id]

    def failed(self) -> bool:
        return FaultId.CAMERA_FAILED in self.board.active()

    def close(self) -> None:
        self.pulses.release()
        self.buffer.release()
        self.capture.stop()
        self.outbox.stop()


def seen(trigger: Trigger) -> Seen:
    shown = int(trigger.views[0].frame.pixels[0, 0]) if trigger.views else None
    return trigger.counter, shown, trigger.not_inspected


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose deadlines are short; not started."""
    monkeypatch.setattr("edge.line.capture.FRAME_S", 0.5)
    monkeypatch.setattr("edge.line.capture.GRACE_S", 0.5)
    monkeypatch.setattr("edge.line.capture._FIRST_OPEN_S", 0.2)
    monkeypatch.setattr("edge.camera.driver.OPEN_S", 0.4)
    monkeypatch.setattr("edge.camera.driver.CLOSE_S", 0.4)
    monkeypatch.setattr("edge.camera.driver._FIRST_PAUSE_S", 0.01)
    bench = Bench(tmp_path / "outbox.db", Pulses(), Buffer())
    yield bench
    bench.close()


def test_triggers_and_frames_come_from_two_devices(bench: Bench) -> None:
    assert bench.is_in(WorkerState.WAITING)
    bench.start()
    bench.pulses.give(5)
    assert bench.next() == (5, 5, None)
    assert bench.is_in(WorkerState.RUNNING)
    assert bench.worker.problems() == {FaultId.CAMERA_FAILED: None}
    bench.pulses.give(6, None)
    assert bench.next() == (6, 6, None)
    with pytest.raises(Closed):
        bench.trigger_queue.take(60)
    assert bench.is_in(WorkerState.ENDED)
    assert bench.events(FaultId.CAMERA_ENDED) == ["part 6 was the last one"]
    assert bench.worker.stop()
    assert bench.buffer.closings == 1


def test_a_part_has_the_frame_of_each_of_its_views_or_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "outbox.db", Pulses([1, 2, 3, None]), Buffer(), left=Buffer({2: [3], 3: []}))
    bench.start()
    parts = [bench.trigger_queue.take(60) for _ in range(3)]
    bench.close()
    shown = [[(v.name, int(v.frame.pixels[0, 0])) for v in part.views] for part in parts if part is not None]
    assert shown == [[("main", 1), ("left", 1)], [], [("main", 3), ("left", 3)]]
    assert [part.not_inspected for part in parts if part is not None] == [None, NotInspected.CAMERA, None]


def test_a_dropped_buffer_costs_its_part_and_no_other(tmp_path: Path) -> None:
    taken = {2: [3], 3: []}
    bench = Bench(tmp_path / "outbox.db", Pulses([1, 2, 3, 4, None]), Buffer(taken))
    bench.start()
    assert bench.all() == [(1, 1, None), (2, None, NotInspected.CAMERA), (3, 3, None), (4, 4, None)]
    assert bench.events(FaultId.FRAME_MISMATCH) == [
        "the frame of counter 2 is lost: the camera's next frame is of counter 3"
    ]
    bench.close()


def test_the_frame_of_another_trigger_is_never_used(tmp_path: Path) -> None:
    taken = {2: [1, 1, 2], 3: [2], 4: [3, 4]}
    bench = Bench(tmp_path / "outbox.db", Pulses([1, 2, 3, 4, None]), Buffer(taken))
    bench.start()
    assert bench.all() == [(1, 1, None), (2, 2, None), (3, None, NotInspected.CAMERA), (4, 4, None)]
    assert len(bench.events(FaultId.FRAME_MISMATCH)) == 1
    bench.close()


def test_the_search_for_a_frame_ends_with_the_time_of_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.line.capture.FRAME_S", 0.2)
    bench = Bench(tmp_path / "outbox.db", Pulses([1, 2, None]), Buffer({2: [1] * 1_000_000}))
    bench.start()
    assert bench.all() == [(1, 1, None), (2, None, NotInspected.CAMERA)]
    assert bench.events(FaultId.BAD_FRAME) == ["the frame of the part with counter 2 did not come within 0.2 s"]
    bench.close()


def test_a_read_that_hangs_costs_the_parts_that_come_meanwhile(bench: Bench) -> None:
    bench.start()
    bench.pulses.give(1)
    assert bench.next() == (1, 1, None)
    bench.buffer.hang("read_frame")
    bench.pulses.give(2)
    assert bench.next() == (2, None, NotInspected.CAMERA)
    bench.pulses.give(*range(3, 40))
    assert [bench.next() for _ in range(37)] == [(n, None, NotInspected.CAMERA) for n in range(3, 40)]
    assert bench.buffer.reads == 2
    assert bench.failed()
    assert "`read_frame` has not returned since" in str(bench.worker.problems()[FaultId.CAMERA_FAILED])
    bench.buffer.release()
    wait_until(lambda: bench.buffer.openings == 2)
    assert bench.failed()  # no answer yet
    inspected = None
    for counter in range(40, 400):  # until it is open
        bench.pulses.give(counter)
        part = bench.next()
        assert part in [(counter, counter, None), (counter, None, NotInspected.CAMERA)]
        if part[1] is not None:
            inspected = counter
            break
        time.sleep(0.02)
    assert inspected is not None
    wait_until(lambda: not bench.failed())
    assert bench.is_in(WorkerState.RUNNING)
    assert len(bench.events(FaultId.CAMERA_FAILED)) == 1


def test_an_arrival_that_comes_too_late_is_a_part_missed(bench: Bench) -> None:
    bench.start()
    bench.pulses.give(1)
    assert bench.next() == (1, 1, None)
    bench.pulses.hang("wait_arrival")
    bench.pulses.give(2)
    wait_until(bench.failed)
    assert "`wait_arrival` has not returned since" in bench.events(FaultId.CAMERA_FAILED)[0]
    bench.pulses.release()
    wait_until(lambda: bench.pulses.openings == [None, 1])
    wait_until(lambda: not bench.failed())
    bench.pulses.give(3)
    assert [bench.next(), bench.next()] == [(2, None, NotInspected.DEVICE_DOWN), (3, 3, None)]


def test_opening_that_hangs_holds_up_no_trigger(bench: Bench) -> None:
    bench.buffer.hang("open")
    bench.start()
    bench.pulses.give(1)
    assert bench.next() == (1, None, NotInspected.CAMERA)
    wait_until(bench.failed)
    assert "`open` has not returned since" in bench.events(FaultId.CAMERA_FAILED)[0]
    bench.buffer.release()
    wait_until(lambda: bench.buffer.openings == 1)
    wait_until(lambda: bench.capture._frames[MAIN_VIEW]._is_open)
    bench.pulses.give(2)
    assert bench.next() == (2, 2, None)
    wait_until(lambda: not bench.failed())


def test_closing_that_hangs_holds_up_no_trigger(bench: Bench) -> None:
    bench.start()
    bench.buffer.fails = CameraError("the cable is out")
    bench.buffer.hang("close")
    bench.pulses.give(1, 2)
    assert [bench.next(), bench.next()] == [(n, None, NotInspected.CAMERA) for n in (1, 2)]
    wait_until(lambda: "`close` has not returned since" in str(bench.worker.problems()[FaultId.CAMERA_FAILED]))
    assert bench.events(FaultId.CAMERA_FAILED) == ["the cable is out"]
    bench.buffer.release()
    wait_until(lambda: bench.capture._frames[MAIN_VIEW]._is_open)
    bench.pulses.give(3)
    assert bench.next() == (3, 3, None)
    wait_until(lambda: not bench.failed())


@pytest.mark.parametrize("call", ["read_frame", "wait_arrival", "open"])
def test_a_driver_that_hangs_for_good_ends_the_program(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("edge.line.capture.HANG_LIMIT_S", 0.3)
    (bench.pulses if call == "wait_arrival" else bench.buffer).hang(call)
    bench.start()
    bench.pulses.give(1)
    wait_until(lambda: bench.is_in(WorkerState.FAILED))
    parts = bench.all()
    assert parts == ([] if call == "wait_arrival" else [(1, None, NotInspected.CAMERA)])
    (detail,) = bench.events(FaultId.THREAD_FAILED)
    assert f"capture: the driver hangs: `{call}` has not returned since" in detail
    assert not bench.worker.stop()


def test_it_stops_while_the_driver_hangs(bench: Bench) -> None:
    bench.start()
    bench.buffer.hang("read_frame")
    bench.pulses.give(1)
    assert bench.buffer.entered.wait(30)
    began_s = time.monotonic()
    assert not bench.worker.stop()
    assert time.monotonic() - began_s < 30
    assert bench.all() == [(1, None, NotInspected.CAMERA)]


def test_a_stop_before_the_start_ends_the_queue_and_closes_the_camera(bench: Bench) -> None:
    bench.capture.open()
    assert bench.worker.stop()
    assert (bench.all(), bench.buffer.closings) == ([], 1)


def test_a_mistake_of_the_program_ends_it_and_is_no_camera_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a mistake in the outbox")

    monkeypatch.setattr(Outbox, "open_trigger", fails)
    bench.start()
    bench.pulses.give(1)
    assert bench.all() == []
    assert bench.is_in(WorkerState.FAILED)
    assert bench.events(FaultId.THREAD_FAILED) == ["capture: ZeroDivisionError: a mistake in the outbox"]
    assert not bench.failed()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.one_of(st.none(), st.lists(st.integers(0, 20), max_size=3))), max_size=10)
)
def test_a_part_is_inspected_by_its_own_frame_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, list[int] | None]]
) -> None:
    """`steps`: how far the counter goes to the next trigger, and what the camera has taken by then; None if its own."""
    counters, taken, counter = [], {}, 0
    for step, frames in steps:
        counter += step
        counters.append(counter)
        if frames is not None:
            taken[counter] = frames
    folder = tmp_path_factory.mktemp("property")
    bench = Bench(folder / "outbox.db", Pulses([*counters, None]), Buffer(taken))
    bench.start()
    parts = bench.all()
    bench.close()
    assert [part[0] for part in parts] == (list(range(counters[0], counters[-1] + 1)) if counters else [])
    for counter, shown, reason in parts:
        if counter in counters:
            assert (shown, reason) in [(counter, None), (None, NotInspected.CAMERA)]
        else:
            assert (shown, reason) == (None, NotInspected.DEVICE_DOWN)
