"""The one thread that writes to the outbox's database: group commits, tried again for as long as the disk refuses."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from edge.outbox.database import Database, mark_damaged
from edge.outbox.disk_space import DiskSpace

Write = Callable[[sqlite3.Connection], int]
"""One change within a transaction; says by how many messages the backlog grew."""

_MAX_BATCH = 512
_RETRY_S = 0.5
_HOUSEKEEPING_S = 0.5

_logger = logging.getLogger(__name__)


class OutboxWriter:
    """Commits what is handed in, in that order; whatever came while it waited for the disk is one transaction.

    `wakeup` is set when a commit brought something to send, `backlog` is the number of messages to send. `error` is
    why writing fails at present; what was handed in waits in memory. A damaged database ends the thread.
    """

    def __init__(self, database: Database, wakeup: threading.Event) -> None:
        self.error: Exception | None = None
        pending = database.writer.execute("SELECT COUNT(*) FROM messages WHERE state = 'pending'")
        self.backlog = int(pending.fetchone()[0])
        self._database, self._db = database, database.writer
        self._wakeup = wakeup
        self._disk_space = DiskSpace(database.path, database.writer, database.database_file)
        self._next_housekeeping_s = time.monotonic() + _HOUSEKEEPING_S
        self._changed = threading.Condition()
        self._waiting: deque[Write] = deque()
        self._handed_in = self._committed = 0
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    @property
    def shortage(self) -> str | None:
        """That the disk is nearly full, and what is left for results; None while it is not."""
        return self._disk_space.shortage

    def hand_in(self, write: Write) -> None:
        """Have a change committed; returns at once.

        Raises:
            RuntimeError: the outbox is closed, or its writer ended.
        """
        with self._changed:
            if self._closing or self._ended:
                raise RuntimeError("the outbox is closed") from self.error
            self._waiting.append(write)
            self._handed_in += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed in before is committed; False when that took too long or the writer ended."""
        with self._changed:
            target = self._handed_in
            self._changed.wait_for(lambda: self._committed >= target or self._ended, timeout_s)
            return self._committed >= target

    def end_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Damage was met while reading: take nothing more, so that the process restarts with a new database."""
        mark_damaged(self._database.path)
        with self._changed:
            self.error = error
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Commit what was handed in, with one last try if writing fails at present, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended and (batch := self._next_batch()) is not None:
                if batch and not self._commit_patiently(batch):
                    return
                self._tend()
        except Exception as error:  # the top of a thread: the daemon turns `error` into a fault
            self.error = error
            if type(error) is sqlite3.DatabaseError:  # corrupt; the subclasses are not
                mark_damaged(self._database.path)
            _logger.exception("the outbox's writer ended")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _next_batch(self) -> list[Write] | None:
        """What waits, after a while possibly nothing; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing or self._ended, _HOUSEKEEPING_S)
            if self._closing and not self._waiting:
                return None
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]

    def _commit_patiently(self, batch: list[Write]) -> bool:
        """Commit it, in smaller pieces if only they find room; False if the outbox closes before it was possible."""
        size = len(batch)
        while batch:
            if self._commit(batch[:size]):
                batch = batch[size:]
            elif self._is_full and (self._made_room() or size > 1):
                size = (size + 1) // 2
            elif self._closing or self._ended:
                return False
            else:
                time.sleep(_RETRY_S)
                size = len(batch)
        return True

    def _commit(self, batch: Iterable[Write]) -> bool:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            growth = [write(self._db) for write in batch]
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:  # disk full, I/O error or locked: it may pass
            self._roll_back()
            if self.error is None:
                _logger.error("the outbox cannot write: %s", error)  # noqa: TRY400  (no traceback for a full disk)
            self.error = error
            return False
        self.error = None
        self.backlog += sum(growth)
        with self._changed:
            self._committed += len(growth)
            self._changed.notify_all()
        if max(growth) > 0:
            self._wakeup.set()
        return True

    @property
    def _is_full(self) -> bool:
        return "full" in str(self.error)  # the error's number is there from Python 3.11 on

    def _made_room(self) -> bool:
        try:
            return self._disk_space.make_room()
        except sqlite3.OperationalError as error:
            _logger.debug("no room can be made: %s", error)
            self._roll_back()
            return False

    def _tend(self) -> None:
        if time.monotonic() < self._next_housekeeping_s:
            return
        try:
            self._disk_space.tend()
        except sqlite3.OperationalError as error:  # results come first; the next step may succeed
            _logger.debug("the outbox's room cannot be kept: %s", error)
            self._roll_back()
        self._next_housekeeping_s = time.monotonic() + _HOUSEKEEPING_S

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
