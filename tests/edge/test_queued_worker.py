"""A queue in front of a thread: whatever becomes of a delivery, `put` returns at once and the trouble is a problem."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

import pytest

from edge.faults import FaultId
from edge.queued_worker import QueuedWorker
from edge.worker import Worker, WorkerState
from tests.support.publishing import wait_until

FAILED, FULL = FaultId.FRAMES_FAILED, FaultId.FRAMES_DROPPED


class Gate:
    """A delivery that does not return before `open` is set; it remembers what it delivered."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.delivered: list[int] = []

    def deliver(self, item: int) -> None:
        """Deliver an item."""
        self.entered.set()
        self.open.wait()
        self.delivered.append(item)


def worker_with(
    deliver: Callable[[int], None], *, limit: int = 10, deadline_s: float = 60.0, stop_s: float = 60.0
) -> QueuedWorker[int]:
    """A worker whose items are as large as their number says; it is not started."""
    return QueuedWorker(
        "queued",
        "delivering a number",
        deliver,
        size=lambda item: item,
        limit=lambda _: limit,
        failed=FAILED,
        full=FULL,
        deadline_s=deadline_s,
        stop_s=stop_s,
    )


def test_items_are_delivered_in_order_also_those_put_before_the_start() -> None:
    delivered: list[int] = []
    queued = worker_with(delivered.append, limit=1000)
    worker: Worker = queued  # mypy holds it to the interface
    states = [worker.state]
    assert queued.put(1)
    worker.start()
    assert all(queued.put(item) for item in range(2, 20))
    assert queued.flush(40)
    states.append(worker.state)
    assert worker.problems() == {FAILED: None, FULL: None}
    assert queued.put(20)
    assert worker.stop()
    assert [*states, worker.state] == [WorkerState.WAITING, WorkerState.RUNNING, WorkerState.ENDED]
    assert delivered == list(range(1, 21))
    assert not queued.put(21)
    assert queued.dropped == 1
    assert worker.stop()
    assert delivered[-1] == 20


def test_the_thread_has_the_name_and_may_be_stopped_before_it_starts() -> None:
    names: list[str] = []
    queued = worker_with(lambda _: names.append(threading.current_thread().name))
    queued.start()
    assert queued.put(1)
    assert queued.stop()
    assert names == ["queued"]
    never_started = worker_with(lambda _: names.append("never"))
    assert never_started.put(1)
    assert not never_started.stop()
    assert never_started.dropped == 1


def test_what_finds_no_room_is_counted_and_a_problem_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    queued = worker_with(gate.deliver, limit=10)
    queued.start()
    assert [queued.put(item) for item in (4, 5, 3, 1, 1)] == [True, True, False, True, False]
    assert queued.dropped == 2
    assert queued.problems()[FULL] == "2 since the start"
    gate.open.set()
    assert queued.flush(40)
    assert queued.put(11)  # larger than the limit, but nothing waits before it
    assert queued.stop()
    assert gate.delivered == [4, 5, 1, 11]
    monkeypatch.setattr("edge.queued_worker.FULL_SHOWN_S", 0.0)
    assert queued.problems()[FULL] is None


def test_a_delivery_that_never_returns_is_a_problem_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    queued = worker_with(gate.deliver, deadline_s=0.2, stop_s=0.3)
    queued.start()
    assert queued.put(6)
    assert gate.entered.wait(40)
    assert queued.put(2)
    put_s: list[float] = []
    for _ in range(20):
        before_s = time.monotonic()
        assert not queued.put(5)
        put_s.append(time.monotonic() - before_s)
    assert min(put_s) < 0.1  # each waited for nothing; one alone may be late on a busy machine
    wait_until(lambda: queued.problems()[FAILED] is not None)
    assert re.fullmatch(r"delivering a number has taken \d+ s so far and is not done", queued.problems()[FAILED] or "")
    assert queued.problems()[FULL] == "20 since the start"
    before_s = time.monotonic()
    assert not queued.stop()
    assert time.monotonic() - before_s < 20  # and not for ever
    assert queued.dropped == 22
    assert "2 items were left" in caplog.text
    gate.open.set()
    wait_until(lambda: queued.state is WorkerState.ENDED)
    assert gate.delivered == [6]
    assert queued.problems()[FAILED] is None


def test_an_error_is_a_problem_until_an_item_succeeds_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def deliver(item: int) -> None:
        if item < 5:
            raise OSError(f"no wire at {item}") if item > 1 else MemoryError

    queued = worker_with(deliver)
    queued.start()
    for item, text in ((1, "MemoryError"), (2, "no wire at 2"), (5, None), (3, "no wire at 3")):
        assert queued.put(item)
        assert queued.flush(40)
        assert queued.problems()[FAILED] == text
        assert queued.state is WorkerState.RUNNING
    assert queued.stop()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == ["delivering a number failed"] * 2
