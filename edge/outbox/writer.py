"""The one thread that writes to the outbox database: group commits, repeated until the disk accepts them."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge.outbox.database import Database, mark_damaged
from edge.outbox.disk_space import DiskSpace
from edge.outbox.running_time import RunningTime
from edge.system.stall_watch import StallWatch

Write = Callable[[sqlite3.Connection], int]
"""One change within a transaction; returns by how many messages the backlog grew."""

MAX_WAITING = 4_000
"""Writes that may wait in memory while the disk takes none, two for each part; beyond it the outbox is `overfull`."""

COMMIT_DEADLINE_S = 10.0
"""A commit that takes longer is a fault: the disk does not answer. A slow card may take a second or two."""

_MAX_BATCH = 512
_RETRY_S = 0.5
_HOUSEKEEPING_S = 0.5

_logger = logging.getLogger(__name__)


class OutboxEndedError(RuntimeError):
    """The outbox is closed, or its writer has ended: nothing can be stored until the next start."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    write: Write
    is_verdict: bool


class OutboxWriter:
    """Commits writes in the order of `hand_in`; all that came during one commit form the next transaction.

    `wakeup` is set when a commit added messages to send; `backlog` is their number. While writing fails, `error` is the
    reason and the writes wait in memory. `unstored` counts the verdicts that are only in memory. A damaged database
    ends the thread.
    """

    def __init__(self, database: Database, wakeup: threading.Event, running_time: RunningTime) -> None:
        self.error: Exception | None = None
        pending = database.writer.execute("SELECT COUNT(*) FROM messages WHERE state = 'pending'")
        self.backlog = int(pending.fetchone()[0])
        self._database, self._db = database, database.writer
        self._wakeup = wakeup
        self._running_time = running_time
        self._disk_space = DiskSpace(database.path, database.writer, database.database_file, running_time)
        self._next_housekeeping_s = time.monotonic() + _HOUSEKEEPING_S
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._handed_in = self._committed = 0
        self.unstored = 0
        self._closing = self._ended = False
        self._watch = StallWatch(COMMIT_DEADLINE_S)
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; changes may have been handed in before."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """True once the thread was started."""
        return self._thread.ident is not None

    @property
    def stalled_s(self) -> float | None:
        """How long the disk has not answered, once that is more than `COMMIT_DEADLINE_S`; else None."""
        return self._watch.stalled_s

    @property
    def shortage(self) -> str | None:
        """While the disk is nearly full, a text with the space left for results; else None."""
        return self._disk_space.shortage

    @property
    def ended(self) -> bool:
        """True if the thread has ended: nothing more is stored."""
        return self._ended

    @property
    def overfull(self) -> bool:
        """True while `MAX_WAITING` writes wait: no further part may be taken."""
        return self._handed_in - self._committed >= MAX_WAITING

    @property
    def takes_events(self) -> bool:
        """True while events may be handed in: they have as much space again as parts, and are lost beyond it."""
        return self._handed_in - self._committed < 2 * MAX_WAITING

    def hand_in(self, write: Write, *, is_verdict: bool = False) -> None:
        """Queue a change for the next commit; returns at once.

        Raises:
            OutboxEndedError: the outbox is closed, or its writer has ended.
        """
        with self._changed:
            self.unstored += is_verdict
            if self._closing or self._ended:
                raise OutboxEndedError("the outbox is closed") from self.error
            self._waiting.append(_Waiting(write, is_verdict))
            self._handed_in += 1
            self._changed.notify_all()

    def note(self, write: Write) -> None:
        """Hand in a change that may be lost, because what it notes is then done again; else memory would fill."""
        if not self.overfull:
            with suppress(OutboxEndedError):
                self.hand_in(write)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed in before is committed; False after the timeout or if the writer has ended."""
        with self._changed:
            target = self._handed_in
            self._changed.wait_for(lambda: self._committed >= target or self._ended, timeout_s)
            return self._committed >= target

    def end_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Stop after damage was found while reading, so that the process restarts with a new database."""
        mark_damaged(self._database.path)
        with self._changed:
            self.error = error
            self._ended = True
            self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Commit what was handed in, with one last try if writing fails at present, and end the thread.

        False if the thread did not end in time, because the disk does not answer.
        """
        if not self.started:
            self.start()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._ended and (batch := self._next_batch()) is not None:
                if batch and not self._commit_patiently(batch):
                    return
                self._tend()
            self._keep_running_time()
        except Exception as error:  # the top of a thread: the daemon turns `error` into a fault
            self.error = error
            if type(error) is sqlite3.DatabaseError:  # corrupt; the subclasses are not
                mark_damaged(self._database.path)
            _logger.exception("the writer thread of the outbox failed")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _next_batch(self) -> list[_Waiting] | None:
        """The waiting writes, possibly none after `_HOUSEKEEPING_S`; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing or self._ended, _HOUSEKEEPING_S)
            if self._closing and not self._waiting:
                return None
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]

    def _commit_patiently(self, batch: list[_Waiting]) -> bool:
        """Commit until it succeeds, in smaller pieces on a full disk; False if the outbox closes before that."""
        size = len(batch)
        while batch:
            with self._watch:
                committed = self._commit(batch[:size])
            if committed:
                batch = batch[size:]
            elif self._is_full and (self._released_space() or size > 1):
                size = (size + 1) // 2
            elif self._closing or self._ended:
                return False
            else:
                time.sleep(_RETRY_S)
                size = len(batch)
        return True

    def _commit(self, batch: Sequence[_Waiting]) -> bool:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            growth = [waiting.write(self._db) for waiting in batch]
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:  # disk full, I/O error or locked: it may pass
            self._roll_back()
            if self.error is None:
                _logger.error("the outbox cannot write: %s", error)  # noqa: TRY400  (no traceback for a full disk)
            self.error = error
            return False
        if not self._ended:
            self.error = None
        self.backlog += sum(growth)
        with self._changed:
            self._committed += len(growth)
            self.unstored -= sum(waiting.is_verdict for waiting in batch)
            self._changed.notify_all()
        if max(growth) > 0:
            self._wakeup.set()
        return True

    @property
    def _is_full(self) -> bool:
        return "full" in str(self.error)  # Python 3.11 and later have the error code

    def _released_space(self) -> bool:
        try:
            with self._watch:
                return self._disk_space.release_space()
        except sqlite3.OperationalError as error:
            _logger.debug("no space can be released: %s", error)
            self._roll_back()
            return False

    def _tend(self) -> None:
        if time.monotonic() < self._next_housekeeping_s:
            return
        try:
            with self._watch:
                self._disk_space.tend()
        except sqlite3.OperationalError as error:  # results come first; the next step may succeed
            _logger.debug("the space of the outbox cannot be tended: %s", error)
            self._roll_back()
        self._next_housekeeping_s = time.monotonic() + _HOUSEKEEPING_S

    def _keep_running_time(self) -> None:
        with suppress(sqlite3.OperationalError):  # the last minute is not counted then
            self._running_time.keep(self._db, every_s=0)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
