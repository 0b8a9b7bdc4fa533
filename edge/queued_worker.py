"""A bounded queue in front of a thread: whoever puts an item never waits for the disk or the hardware behind it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from edge.faults import FaultId
from edge.system.stall_watch import StallWatch
from edge.worker import Problems, WorkerState, state_of_thread

SHOWN_S = 10.0
"""That items were dropped stays a problem for this long after the last one."""

_Item = TypeVar("_Item")
_logger = logging.getLogger(__name__)


class QueuedWorker(Generic[_Item]):
    """A `Worker` that passes items to `deliver`, one after the other in the order of `put`.

    An item takes `size` of the queue until it is delivered, and finds room if all together take at most `limit`, both
    in any unit; an item that finds nothing before it always does. `deliver` may block and may raise: an error is the
    problem `failed` until an item succeeds, and for at least `failure_shown_s`; so is an item that takes longer than
    `deadline_s`. Items that found no room are the problem `full`. `task` says in the text of a problem what `deliver`
    does, such as "writing a frame". `at_end` is called on the thread after the last item. `error` is why the newest
    item failed, or None; `dropped` counts the items that found no room or were left at the end.
    """

    def __init__(
        self,
        name: str,
        task: str,
        deliver: Callable[[_Item], None],
        *,
        size: Callable[[_Item], int],
        limit: Callable[[_Item], int],
        failed: FaultId,
        full: FaultId,
        deadline_s: float,
        stop_s: float,
        failure_shown_s: float = 0.0,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.stop_s = stop_s
        self.error: Exception | None = None
        self.dropped = 0
        self._task = task
        self._deliver = deliver
        self._at_end = at_end
        self._failure_shown_s = failure_shown_s
        self._last_failure, self._last_failure_monotonic_s = "", 0.0
        self._size, self._limit = size, limit
        self._failed, self._full = failed, full
        self._watch = StallWatch(deadline_s)
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._used = self._undelivered = 0
        self._dropped_monotonic_s: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def state(self) -> WorkerState:
        """See `Worker`; it never fails, as it goes on after an item that failed."""
        return state_of_thread(self._thread, stopping=self._stopping)

    def start(self) -> None:
        """Start the thread; items may have been put before."""
        self._thread.start()

    def put(self, item: _Item) -> bool:
        """Queue an item; returns at once, False if it was dropped for want of room or because the worker stops."""
        size = self._size(item)
        with self._changed:
            if self._stopping or (self._used and self._used + size > self._limit(item)):
                self._drop(1)
                return False
            self._waiting.append(item)
            self._used += size
            self._undelivered += 1
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until no item waits or is being delivered; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._undelivered == 0, timeout_s)

    def stop(self) -> bool:
        """Deliver what waits, and end; False if items were left after `stop_s`, which are dropped.

        Further calls do nothing but say the same.
        """
        with self._changed:
            first, self._stopping = not self._stopping, True
            self._changed.notify_all()
        if first and self._thread.ident is not None:
            self._thread.join(self.stop_s)
        with self._changed:
            if first and self._undelivered:
                self._waiting.clear()
                self._drop(self._undelivered)
                _logger.warning(
                    "%s: %d items were left after %.0f s and are dropped", self.name, self._undelivered, self.stop_s
                )
            return not self._undelivered

    def problems(self) -> Problems:
        """See `Worker`."""
        dropped_monotonic_s, failure = self._dropped_monotonic_s, self._failure()
        full = dropped_monotonic_s is not None and time.monotonic() - dropped_monotonic_s < SHOWN_S
        return {self._failed: failure, self._full: f"{self.dropped} since the start" if full else None}

    def _failure(self) -> str | None:
        stalled_s, error = self._watch.stalled_s, self.error
        if stalled_s is not None:
            return f"{self._task} has taken {stalled_s:.0f} s so far and is not done"
        shown = time.monotonic() - self._last_failure_monotonic_s < self._failure_shown_s
        return self._last_failure if self._last_failure and (error is not None or shown) else None

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._dropped_monotonic_s = time.monotonic()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
            try:
                with self._watch:
                    self._deliver(item)
                self.error = None
            except Exception as error:  # the top of a thread: the next item may succeed
                if self.error is None:
                    _logger.exception("%s failed", self._task)
                self._last_failure, self._last_failure_monotonic_s = (
                    str(error) or type(error).__name__,
                    time.monotonic(),
                )
                self.error = error
            with self._changed:
                self._used -= self._size(item)
                self._undelivered -= 1
                self._changed.notify_all()
        try:
            self._at_end()
        except Exception:  # the top of a thread, at its end: there is nothing left that could fail with it
            _logger.exception("%s could not be ended", self._task)
