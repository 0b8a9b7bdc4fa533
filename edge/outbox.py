"""The outbox: every trigger, result and event on disk before anybody hears of it.

SQLite in WAL mode with synchronous=FULL: what is committed survives SIGKILL and a power cut. One thread writes, and
whatever was handed in while it waited for the disk goes into its next transaction (group commit), so that callers
never wait. A trigger's journal row disappears in the transaction that stores its result: at any moment a journalled
trigger is either open or has exactly one result.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from edge.messages import Trigger
from edge.outbox_database import open_database

RETAINED_MESSAGES = 100_000
"""Newest messages that are kept after their acknowledgement: a broker's PUBACK is not yet delivery."""

_TRIM_EVERY = 1000
_MAX_BATCH = 512
_RETRY_S = 0.5

_logger = logging.getLogger(__name__)

_Write = Callable[[sqlite3.Connection], bool]
"""One change within a transaction; says whether it gave the publisher something to send."""


class MessageKind(str, Enum):
    """What a stored message is; also its topic below the device's root."""

    RESULT = "result"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the publisher sends it; `topic` is what stands below the device's root."""

    message_id: int
    kind: MessageKind
    seq: int | None
    epoch: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OpenTrigger:
    """A journalled trigger without a result."""

    seq: int
    frame_id: str
    part_id: str | None
    counter: int
    triggered_at_utc: str


class Outbox:
    """The database of triggers and messages; one process owns it, any of its threads may call.

    `epoch` is a random name, new whenever the database is created: with `seq` it names a result for good.
    `set_aside` is where a damaged database was moved. `wakeup` is set when there is something new to send.
    `error` is why writing fails at present; what was handed in waits in memory and is tried again.

    Raises:
        ProcunitError: the database cannot be opened, was made by another version, or another process owns it.
    """

    def __init__(self, path: Path) -> None:
        self.wakeup = threading.Event()
        self.error: Exception | None = None
        self._database = open_database(path)
        self._db, self._reader = self._database.writer, self._database.reader
        self.epoch, self.set_aside = self._database.epoch, self._database.set_aside
        self._reader_lock = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[_Write] = deque()
        self._handed_in = self._committed = 0
        self._closing = self._ended = False
        self._settled_since_trim = 0
        self._writer = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._writer.start()

    def next_seq(self) -> int:
        """The number of the next trigger: one above the highest that was ever committed; ask once, at start."""
        return int(self._read("SELECT last_seq FROM journal")[0][0]) + 1

    def last_counter(self) -> int | None:
        """The camera's counter at the newest committed trigger."""
        counter = self._read("SELECT last_counter FROM journal")[0][0]
        return None if counter is None else int(counter)

    def open_triggers(self) -> list[OpenTrigger]:
        """Triggers without a result, oldest first: at start, what a crash left open."""
        rows = self._read("SELECT seq, frame_id, part_id, counter, triggered_at_utc FROM triggers ORDER BY seq")
        return [OpenTrigger(*row) for row in rows]

    def open_trigger(self, trigger: Trigger) -> None:
        """Journal a trigger; returns at once."""
        row = (trigger.seq, trigger.frame_id, trigger.part_id, trigger.counter, trigger.triggered_at_utc)
        self._hand_in(partial(_journal_trigger, row))

    def close_trigger(self, seq: int, payload: bytes) -> None:
        """Store a trigger's result and take the trigger off the journal, in one transaction; returns at once.

        A trigger that is not open keeps the result it has.
        """
        self._hand_in(partial(_store_result, seq, payload))

    def put_event(self, payload: bytes) -> None:
        """Store an event; returns at once."""
        self._hand_in(partial(_store_event, payload))

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed in before is committed; False when that took too long or the writer ended."""
        with self._changed:
            target = self._handed_in
            self._changed.wait_for(lambda: self._committed >= target or self._ended, timeout_s)
            return self._committed >= target

    def unacknowledged(self, after_id: int, limit: int) -> list[StoredMessage]:
        """Messages still to be sent, in the order in which they were handed in."""
        rows = self._read(
            "SELECT message_id, kind, seq, topic, payload FROM messages "
            "WHERE state = 'pending' AND message_id > ? ORDER BY message_id LIMIT ?",
            (after_id, limit),
        )
        return [
            StoredMessage(message_id, MessageKind(kind), seq, self.epoch, topic, payload)
            for message_id, kind, seq, topic, payload in rows
        ]

    def acknowledge(self, message_ids: Sequence[int]) -> None:
        """The broker has these messages; returns at once."""
        self._hand_in(partial(self._settle, [("acknowledged", None, message_id) for message_id in message_ids]))

    def quarantine(self, message_id: int, reason: str) -> None:
        """The broker will never take this message: keep it and its reason, send the next; returns at once."""
        self._hand_in(partial(self._settle, [("quarantined", reason, message_id)]))

    def backlog(self) -> int:
        """Messages still to be sent."""
        return int(self._read("SELECT COUNT(*) FROM messages WHERE state = 'pending'")[0][0])

    def close(self) -> None:
        """Commit what was handed in (one last try if writing fails at present) and close the database."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join()
        self._database.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, sql: str, values: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
        with self._reader_lock:
            return self._reader.execute(sql, values).fetchall()

    def _hand_in(self, write: _Write) -> None:
        with self._changed:
            if self._closing or self._ended:
                raise RuntimeError("the outbox is closed") from self.error
            self._waiting.append(write)
            self._handed_in += 1
            self._changed.notify_all()

    def _write_loop(self) -> None:
        try:
            while batch := self._next_batch():
                while not self._commit(batch):
                    if self._closing:
                        return
                    time.sleep(_RETRY_S)
        except Exception as error:  # the top of a thread: the daemon turns `error` into a fault
            self.error = error
            _logger.exception("the outbox's writer ended")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _next_batch(self) -> list[_Write]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]

    def _commit(self, batch: Iterable[_Write]) -> bool:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            news = [write(self._db) for write in batch]
            if self._settled_since_trim >= _TRIM_EVERY:
                _trim(self._db)
                self._settled_since_trim = 0
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:  # disk full, I/O error or locked: it may pass
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if self.error is None:
                _logger.error("the outbox cannot write: %s", error)  # noqa: TRY400  (no traceback for a full disk)
            self.error = error
            return False
        self.error = None
        with self._changed:
            self._committed += len(news)
            self._changed.notify_all()
        if any(news):
            self.wakeup.set()
        return True

    def _settle(self, rows: list[tuple[str, str | None, int]], db: sqlite3.Connection) -> bool:
        db.executemany("UPDATE messages SET state = ?, reason = ? WHERE message_id = ? AND state = 'pending'", rows)
        self._settled_since_trim += len(rows)
        return False


def _journal_trigger(row: tuple[int, str, str | None, int, str], db: sqlite3.Connection) -> bool:
    db.execute("INSERT INTO triggers VALUES (?, ?, ?, ?, ?)", row)
    db.execute("UPDATE journal SET last_seq = ?, last_counter = ?", (row[0], row[3]))
    return False


def _store_result(seq: int, payload: bytes, db: sqlite3.Connection) -> bool:
    if db.execute("DELETE FROM triggers WHERE seq = ?", (seq,)).rowcount == 0:
        _logger.error("trigger %d is not open; its second result is dropped", seq)
        return False
    kind = MessageKind.RESULT.value
    db.execute("INSERT INTO messages (kind, seq, topic, payload) VALUES (?, ?, ?, ?)", (kind, seq, kind, payload))
    return True


def _store_event(payload: bytes, db: sqlite3.Connection) -> bool:
    kind = MessageKind.EVENT.value
    db.execute("INSERT INTO messages (kind, topic, payload) VALUES (?, ?, ?)", (kind, kind, payload))
    return True


def _trim(db: sqlite3.Connection) -> None:
    db.execute(
        "DELETE FROM messages WHERE message_id <= (SELECT MAX(message_id) FROM messages) - ? AND state <> 'pending'",
        (RETAINED_MESSAGES,),
    )
