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


class HandOver:
    """Room for `frame_slots` frames between one giver and one taker.

    A frame that has waited longer than `deadline_s` is dropped: its verdict would come too late. None means that no
    line is waiting.
    """

    def __init__(self, frame_slots: int, deadline_s: float | None) -> None:
        self._frame_slots = frame_slots
        self._deadline_s = deadline_s
        self._waiting: deque[Trigger] = deque()
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

    def put(self, trigger: Trigger) -> None:
        """Hand a trigger over; one with a frame needs room, any other waits only behind `MAX_WAITING` others."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._closed)
            self._frames += trigger.frame is not None
            self._waiting.append(trigger)
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
            trigger = self._waiting.popleft()
            self._frames -= trigger.frame is not None
            self._changed.notify_all()
        return self._in_time(trigger)

    def close(self) -> None:
        """No trigger follows; what waits may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _in_time(self, trigger: Trigger) -> Trigger:
        age_s = (time.monotonic_ns() - trigger.triggered_monotonic_ns) / 1e9
        if trigger.frame is None or self._deadline_s is None or age_s <= self._deadline_s:
            return trigger
        return replace(trigger, frame=None, not_inspected=NotInspected.OVERLOAD)
