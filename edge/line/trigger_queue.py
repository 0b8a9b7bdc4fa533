"""The bounded hand-over of triggers from capture to inspection, in the order of the triggers.

Frames are large, so only a few may wait. A trigger that finds no room passes as a marker without its frame: it keeps
its place in the order and becomes `not_inspected: overload`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace

from edge.messages import NotInspected, Trigger

MAX_WAITING = 20_000
"""Triggers that may wait in all; a marker takes some hundred bytes."""


class Closed(Exception):  # noqa: N818  (no error: the last trigger has been taken)
    """The hand-over was closed and is empty."""


class TriggerQueue:
    """Room for `frame_slots` frames between one giver and one taker."""

    def __init__(self, frame_slots: int) -> None:
        self._frame_slots = frame_slots
        self._waiting: deque[tuple[Trigger, float | None]] = deque()
        self._frames = 0
        self._closed = False
        self._changed = threading.Condition()

    def has_room(self) -> bool:
        """Whether a frame may be put now; only the taker changes that, and only for the better."""
        with self._changed:
            return self._frames < self._frame_slots

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until a frame may be put; False if there is still no room."""
        with self._changed:
            return self._changed.wait_for(lambda: self._frames < self._frame_slots, timeout_s)

    def put(self, trigger: Trigger, deadline_s: float | None = None) -> None:
        """Hand a trigger over; one with a frame needs room, any other waits only behind `MAX_WAITING` others.

        A frame older than `deadline_s` when its turn comes is dropped, as its verdict would be too late; with None no
        line is waiting for it.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._closed)
            self._frames += trigger.frame is not None
            self._waiting.append((trigger, deadline_s))
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Trigger | None:
        """The next trigger in order, or None if none came in time; one that waited too long comes without its frame.

        Raises:
            Closed: there will be no further trigger.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s):
                return None
            if not self._waiting:
                raise Closed
            trigger, deadline_s = self._waiting.popleft()
            self._frames -= trigger.frame is not None
            self._changed.notify_all()
        return _in_time(trigger, deadline_s)

    def close(self) -> None:
        """No trigger follows; what waits may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _in_time(trigger: Trigger, deadline_s: float | None) -> Trigger:
    age_s = (time.monotonic_ns() - trigger.triggered_monotonic_ns) / 1e9
    if trigger.frame is None or deadline_s is None or age_s <= deadline_s:
        return trigger
    return replace(trigger, frame=None, not_inspected=NotInspected.OVERLOAD)
