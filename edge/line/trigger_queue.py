"""The bounded queue of triggers from capture to inspection, in the order of the triggers.

Frames are large, so only a few parts with frames may wait. A trigger that finds no free frame slot is queued without
its frames: it keeps its place in the order and becomes `not_inspected: overload`.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from edge.messages import NotInspected, Trigger

MAX_WAITING = 20_000
"""Limit on waiting triggers, with and without frames; one without a frame takes some hundred bytes."""


class Closed(Exception):  # noqa: N818  (no error: the last trigger has been taken)
    """The queue is closed and empty."""


class TriggerQueue:
    """Queue with `frame_slots` slots, each for the frames of one part; one thread puts, one thread takes."""

    def __init__(self, frame_slots: int) -> None:
        self._frame_slots = frame_slots
        self._waiting: deque[tuple[Trigger, float | None]] = deque()
        self._frames = 0
        self._closed = False
        self._changed = threading.Condition()

    def has_free_slot(self) -> bool:
        """True if a frame slot is free. Only `take` frees slots, so True stays true until the caller puts."""
        with self._changed:
            return self._frames < self._frame_slots

    def wait_for_free_slot(self, timeout_s: float) -> bool:
        """Wait for a free frame slot; False if there is none after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._frames < self._frame_slots, timeout_s)

    def put(self, trigger: Trigger, deadline_s: float | None = None) -> None:
        """Append a trigger; blocks while `MAX_WAITING` triggers wait. One with frames needs a free slot.

        `take` drops the frames if the trigger is then older than `deadline_s`, because its verdict would be too late.
        None means no deadline.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._closed)
            self._frames += bool(trigger.views)
            self._waiting.append((trigger, deadline_s))
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Trigger | None:
        """Return the next trigger, without its frames if it is past its deadline; None if none came in time.

        Raises:
            Closed: there will be no further trigger.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s):
                return None
            if not self._waiting:
                raise Closed
            trigger, deadline_s = self._waiting.popleft()
            self._frames -= bool(trigger.views)
            self._changed.notify_all()
        return _without_late_frames(trigger, deadline_s)

    def close(self) -> None:
        """Declare that no trigger follows; those waiting can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _without_late_frames(trigger: Trigger, deadline_s: float | None) -> Trigger:
    age_s = (time.monotonic_ns() - trigger.triggered_monotonic_ns) / 1e9
    if not trigger.views or deadline_s is None or age_s <= deadline_s:
        return trigger
    return trigger.refused(NotInspected.OVERLOAD)
