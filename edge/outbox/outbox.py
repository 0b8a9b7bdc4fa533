"""The outbox: every trigger, result and event is on disk before it is published.

SQLite in WAL mode with synchronous=FULL: committed data survives SIGKILL and a power cut. One thread writes
(`writer.py`), so that callers never wait. The transaction that stores a result deletes its trigger's journal row: at
any moment a journalled trigger is either open or has exactly one result. Acknowledged messages are kept for a replay
(`replays.py`); those that a broker refused are kept until it takes them (`refused_messages.py`), and longer than
acknowledged ones (`disk_space.py`).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from edge.faults import FaultId
from edge.messages import Trigger
from edge.outbox import changes
from edge.outbox.command_memory import CommandMemory
from edge.outbox.database import open_database
from edge.outbox.refused_messages import RefusedMessages
from edge.outbox.replays import Replays
from edge.outbox.running_time import RunningTime
from edge.outbox.writer import OutboxWriter
from edge.system.clock import utc_now
from edge.worker import Problems, WorkerState

CLOSE_S = 5.0
"""How long the last commit may take before the outbox is left as it is."""

_ABOVE_ALL_IDS = 2**63 - 1

_logger = logging.getLogger(__name__)


class MessageKind(str, Enum):
    """The kind of a stored message; also its topic below the device's root."""

    RESULT = changes.RESULT
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the publisher sends it; `topic` is relative to the device's root.

    `replay_id` is set on a result of a replay, `refusal` on a message that the broker refused before: the reason.
    """

    message_id: int
    kind: MessageKind
    seq: int | None
    epoch: str
    topic: str
    payload: bytes
    created_at_utc: str
    replay_id: int | None = None
    refusal: str | None = None

    @property
    def replayed(self) -> bool:
        """True if it is sent again on request."""
        return self.replay_id is not None


@dataclass(frozen=True, slots=True)
class OpenTrigger:
    """A journalled trigger without a result."""

    seq: int
    frame_id: str
    part_id: str | None
    counter: int
    triggered_at_utc: str


class Outbox:
    """The database of triggers and messages; one process owns it, any of its threads may call. A `Worker`.

    Changes may be handed in before `start`; the thread commits them. `epoch` is a random name, new whenever the
    database is created: (epoch, seq) identifies a result for ever. `set_aside` is the path to which a damaged database
    was moved, or None. `wakeup` is set when there is something new to send. `command_memory` remembers signed commands
    in the same database; `refused` are the quarantined messages, `replays` the results to be sent again.

    Raises:
        ProcunitError: the database cannot be opened, was made by another version, or another process owns it.
    """

    name = "outbox"
    stop_s = CLOSE_S

    def __init__(self, path: Path) -> None:
        self.wakeup = threading.Event()
        self._database = open_database(path)
        self._reader = self._database.reader
        self.epoch, self.set_aside = self._database.epoch, self._database.set_aside
        self._reader_lock = threading.Lock()
        self._read_error: Exception | None = None
        self._closed = False
        self._running_time = RunningTime(self._database.writer)
        self._writer = OutboxWriter(self._database, self.wakeup, self._running_time)
        self.command_memory = CommandMemory(self._reader, self._writer)
        self.refused = RefusedMessages(
            self._read_or_nothing, self._writer, partial(self._message, replay_id=None), self._running_time.now_s
        )
        self.replays = Replays(self.epoch, self._read, self._writer, self._message, lambda: self.error)

    @property
    def error(self) -> Exception | None:
        """Why the disk fails at present, or None; meanwhile writes wait in memory and are tried again."""
        return self._writer.error or self._read_error

    @property
    def ended(self) -> bool:
        """True if nothing can be stored until the next start."""
        return self._writer.ended

    @property
    def unstored(self) -> int:
        """Verdicts that are only in memory; after `stop` the verdicts that are lost."""
        return self._writer.unstored

    @property
    def overfull(self) -> bool:
        """True while so many writes wait in memory that no further part may be taken."""
        return self._writer.overfull

    @property
    def shortage(self) -> str | None:
        """While the disk is nearly full, a text with the space left for results; else None."""
        return self._writer.shortage

    def next_seq(self) -> int:
        """The number for the next trigger, one above the highest ever committed; call it once, at start."""
        return int(self._read("SELECT last_seq FROM journal")[0][0]) + 1

    def last_counter(self) -> int | None:
        """The camera's counter at the newest committed trigger."""
        counter = self._read("SELECT last_counter FROM journal")[0][0]
        return None if counter is None else int(counter)

    def open_triggers(self) -> list[OpenTrigger]:
        """Triggers without a result, oldest first; at start these are the ones that a crash left open."""
        rows = self._read("SELECT seq, frame_id, part_id, counter, triggered_at_utc FROM triggers ORDER BY seq")
        return [OpenTrigger(*row) for row in rows]

    def open_trigger(self, trigger: Trigger) -> None:
        """Journal a trigger; returns at once.

        Raises:
            OutboxEndedError: nothing can be stored any more; the same for `close_trigger`.
        """
        row = (trigger.seq, trigger.frame_id, trigger.part_id, trigger.counter, trigger.triggered_at_utc)
        self._writer.hand_in(partial(changes.journal_trigger, row))

    def close_trigger(self, seq: int, payload: bytes) -> None:
        """Store the result of a trigger and delete its journal row, in one transaction; returns at once.

        If the trigger is not open, its first result is kept and this one is dropped.
        """
        self._writer.hand_in(partial(changes.store_result, seq, payload, utc_now()), is_verdict=True)

    def put_event(self, payload: bytes) -> None:
        """Store an event; returns at once. It is lost while far too many writes wait for the disk.

        Raises:
            OutboxEndedError: nothing can be stored any more.
        """
        if self._writer.takes_events:
            self._writer.hand_in(partial(changes.store, MessageKind.EVENT.value, None, payload, utc_now()))

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed in before is committed; False after the timeout or if the writer has ended."""
        return self._writer.flush(timeout_s)

    def unacknowledged(self, after_id: int, limit: int) -> list[StoredMessage]:
        """Up to `limit` messages to be sent with ids above `after_id`, in the order of their storing.

        No message while the disk cannot be read: `error` says so, and the connection to the broker lives on to tell it.
        """
        if self.ended:
            return []
        rows = self._read_or_nothing(
            "SELECT message_id, kind, seq, topic, payload, created_at_utc, NULL FROM messages "
            "WHERE state = 'pending' AND message_id > ? ORDER BY message_id LIMIT ?",
            (after_id, limit),
        )
        return [self._message(row, None) for row in rows]

    def acknowledge(self, message_ids: Sequence[int]) -> None:
        """Mark messages as acknowledged by the broker; returns at once."""
        now_s = self._running_time.now_s()
        self._writer.note(partial(changes.settle, [("acknowledged", None, now_s, row) for row in message_ids]))

    def quarantine(self, message_id: int, reason: str) -> None:
        """Set a message aside that the broker refuses; it is kept with the reason (`refused`). Returns at once."""
        self._writer.note(partial(changes.settle, [("quarantined", reason, self._running_time.now_s(), message_id)]))

    def newest_id(self) -> int:
        """The highest message id so far; messages stored later have higher ids, whatever the clock does."""
        try:
            rows = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")
        except sqlite3.DatabaseError:  # `error` says so; unknown, so above all of them
            return _ABOVE_ALL_IDS
        return int(rows[0][0]) if rows else 0

    def backlog(self) -> int:
        """Number of messages still to be sent, without those of a replay."""
        return self._writer.backlog

    def start(self) -> None:
        """Start the thread that writes."""
        self._writer.start()

    @property
    def state(self) -> WorkerState:
        """See `Worker`."""
        if not self._writer.started:
            return WorkerState.WAITING
        if not self.ended:
            return WorkerState.RUNNING
        return WorkerState.ENDED if self._closed else WorkerState.FAILED

    def problems(self) -> Problems:
        """See `Worker`."""
        stalled_s, error = self._writer.stalled_s, self.error
        failed = None if error is None else str(error)
        if stalled_s is not None:
            failed = f"the disk has not answered for {stalled_s:.0f} s"
        return {FaultId.OUTBOX_FAILED: failed, FaultId.DISK_LOW: self.shortage}

    def stop(self) -> bool:
        """Commit what was handed in (with one last try if writing fails) and close the database.

        Takes at most `stop_s` and the time to close the files; False if verdicts are lost or the disk does not answer.
        A second call does nothing but say the same.
        """
        if not self._closed:
            self._closed = True
            if self._writer.close(self.stop_s):
                self._database.close()
            else:
                _logger.error("the disk of the outbox does not answer within %.0f s; it is left as it is", self.stop_s)
        return self.ended and not self.unstored

    def __enter__(self) -> Outbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _message(self, row: tuple[Any, ...], replay_id: int | None) -> StoredMessage:
        message_id, kind, seq, topic, payload, created_at_utc, refusal = row
        return StoredMessage(
            message_id, MessageKind(kind), seq, self.epoch, topic, payload, created_at_utc, replay_id, refusal
        )

    def _read_or_nothing(self, sql: str, values: tuple[int | str | None, ...]) -> list[tuple[Any, ...]]:
        """What is read, nothing while the disk fails: `error` says so, and whoever sends goes on, to tell it."""
        try:
            rows = self._read(sql, values)
        except sqlite3.DatabaseError as error:
            self._read_error = error
            return []
        self._read_error = None
        return rows

    def _read(self, sql: str, values: tuple[int | str | None, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._reader_lock:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # a corrupt database; its subclasses mean other errors
                self._writer.end_damaged(error)
            raise
