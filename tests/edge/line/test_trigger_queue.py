"""The trigger queue: order, limits, triggers without frames, and deadlines, with real threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.line import trigger_queue as module
from edge.line.trigger_queue import Closed, TriggerQueue
from edge.messages import MAIN_VIEW, Frame, NotInspected, Trigger, View

PIXELS = np.zeros((32, 32), np.uint8)


def trigger(seq: int, *, frame: bool = True, age_s: float = 0.0) -> Trigger:
    now_ns = time.monotonic_ns() - int(age_s * 1e9)
    views = (View(MAIN_VIEW, Frame(str(seq), None, seq, "", now_ns, PIXELS)),) if frame else ()
    return Trigger(seq, str(seq), None, seq, "", now_ns, views, None if frame else NotInspected.OVERLOAD)


def test_triggers_are_taken_in_order_then_closed_is_raised() -> None:
    trigger_queue = TriggerQueue(2)
    trigger_queue.put(trigger(1))
    trigger_queue.put(trigger(2, frame=False))
    trigger_queue.put(trigger(3))
    trigger_queue.close()
    taken = [trigger_queue.take(0) for _ in range(3)]
    assert [t.seq for t in taken if t] == [1, 2, 3]
    with pytest.raises(Closed):
        trigger_queue.take(0)


def test_take_returns_none_after_the_timeout() -> None:
    started_s = time.monotonic()
    assert TriggerQueue(1).take(0.05) is None
    assert time.monotonic() - started_s >= 0.05


def test_only_frames_use_slots() -> None:
    trigger_queue = TriggerQueue(1)
    trigger_queue.put(trigger(1, frame=False))
    assert trigger_queue.has_free_slot()
    trigger_queue.put(trigger(2))
    assert not trigger_queue.has_free_slot()
    assert not trigger_queue.wait_for_free_slot(0.01)
    trigger_queue.take(0)
    assert not trigger_queue.has_free_slot()
    trigger_queue.take(0)
    assert trigger_queue.wait_for_free_slot(0)


def test_a_freed_slot_wakes_a_waiting_putter() -> None:
    trigger_queue = TriggerQueue(1)
    trigger_queue.put(trigger(1))
    threading.Timer(0.05, trigger_queue.take, (0,)).start()
    assert trigger_queue.wait_for_free_slot(5)


@pytest.mark.parametrize(("age_s", "in_time"), [(0.0, True), (0.15, True), (0.3, False)])
def test_a_frame_past_its_deadline_becomes_overload(age_s: float, in_time: bool) -> None:
    trigger_queue = TriggerQueue(2)
    trigger_queue.put(trigger(1, age_s=age_s), 0.2)
    taken = trigger_queue.take(0)
    assert taken is not None
    assert (bool(taken.views)) is in_time
    assert taken.not_inspected is (None if in_time else NotInspected.OVERLOAD)


def test_without_a_deadline_no_frame_is_too_late() -> None:
    trigger_queue = TriggerQueue(2)
    trigger_queue.put(trigger(1, age_s=3600))
    taken = trigger_queue.take(0)
    assert taken is not None
    assert bool(taken.views)


def test_a_trigger_without_a_frame_keeps_its_reason() -> None:
    trigger_queue = TriggerQueue(1)
    now_ns = time.monotonic_ns() - 10**9
    trigger_queue.put(Trigger(1, "1", None, 1, "", now_ns, (), NotInspected.CAMERA), 0.1)
    taken = trigger_queue.take(0)
    assert taken is not None
    assert taken.not_inspected is NotInspected.CAMERA


def test_triggers_without_frames_are_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    trigger_queue = TriggerQueue(1)

    def give_ten() -> None:
        for seq in range(10):
            trigger_queue.put(trigger(seq, frame=False))

    giver = threading.Thread(target=give_ten)
    giver.start()
    time.sleep(0.05)
    assert giver.is_alive()
    taken = [trigger_queue.take(1) for _ in range(10)]
    giver.join(40)
    assert [t.seq for t in taken if t] == list(range(10))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_two_threads_pass_every_trigger_once_in_order(frames: list[bool], slots: int) -> None:
    trigger_queue = TriggerQueue(slots)
    taken: list[tuple[int, bool]] = []

    def take_all() -> None:
        while True:
            try:
                one = trigger_queue.take(0.5)
            except Closed:
                return
            if one is not None:
                taken.append((one.seq, bool(one.views)))

    taker = threading.Thread(target=take_all)
    taker.start()
    for seq, wants_frame in enumerate(frames):
        trigger_queue.put(trigger(seq, frame=wants_frame and trigger_queue.wait_for_free_slot(5)))
    trigger_queue.close()
    taker.join(40)
    assert taken == list(enumerate(frames))
