"""Results that are sent again on request: each replay is a row on the disk until its last result is acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from edge.errors import ProcunitError
from edge.outbox import changes
from edge.outbox.refused_messages import IS_TOO_LARGE

if TYPE_CHECKING:
    from edge.outbox.outbox import StoredMessage
    from edge.outbox.writer import OutboxWriter

MAX_REPLAYS = 16
"""Limit on waiting replays."""

_RESULTS = (
    "SELECT message_id, kind, seq, topic, payload, created_at_utc, reason FROM messages "  # noqa: S608
    f"WHERE kind = 'result' AND seq BETWEEN ? AND ? AND state <> 'pending' AND NOT {IS_TOO_LARGE} ORDER BY seq LIMIT ?"
)


class Replays:
    """The replays of an outbox; any thread may call. `error` says why its disk fails at present, or None."""

    def __init__(
        self,
        epoch: str,
        read: Callable[[str, tuple[int | str | None, ...]], list[tuple[Any, ...]]],
        writer: OutboxWriter,
        message: Callable[[tuple[Any, ...], int | None], StoredMessage],
        error: Callable[[], Exception | None],
    ) -> None:
        self._epoch = epoch
        self._read, self._writer, self._message, self._error = read, writer, message, error

    def ask(self, epoch: str, first_seq: int, last_seq: int) -> int:
        """Send results from `first_seq` to `last_seq` again, after all new messages, also those refused before.

        Returns how many results will be sent: those stored, but for those that are too large for the broker. The replay
        continues after a restart.

        Raises:
            ProcunitError: the epoch is another one, the range is empty, too many replays wait, or the disk fails.
        """
        if (error := self._error()) is not None:
            raise ProcunitError(f"the disk fails: {error}", remedy="Ask again when `outbox_failed` is over")
        if epoch != self._epoch:
            raise ProcunitError(f"epoch {epoch} is not stored here", remedy=f"Ask for results of epoch {self._epoch}")
        if first_seq > last_seq:
            raise ProcunitError(f"{first_seq} to {last_seq} is no range", remedy="Name the lower number first")
        if self._read("SELECT COUNT(*) FROM replays", ())[0][0] >= MAX_REPLAYS:
            raise ProcunitError(f"{MAX_REPLAYS} replays wait already", remedy="Ask again when they are finished")
        within = f"FROM messages WHERE kind = 'result' AND seq BETWEEN ? AND ? AND NOT {IS_TOO_LARGE}"
        stored, last_stored = self._read(f"SELECT COUNT(*), MAX(seq) {within}", (first_seq, last_seq))[0]
        if stored:
            self._writer.hand_in(partial(changes.start_replay, first_seq, last_stored))
        return int(stored)

    def page(self, after: StoredMessage | None, limit: int) -> list[StoredMessage]:
        """Up to `limit` results to be sent again, one replay after the other, each in the order of sequence numbers.

        `after` is the last result already in flight; None starts after the last acknowledged one.
        """
        if self._writer.ended:
            return []
        try:
            return self._page(after, limit)
        except sqlite3.DatabaseError:  # the outbox says so
            return []

    def _page(self, after: StoredMessage | None, limit: int) -> list[StoredMessage]:
        replays = self._read("SELECT replay_id, next_seq, last_seq FROM replays ORDER BY 1", ())
        for replay_id, next_seq, last_seq in replays:
            first_seq = next_seq
            if after is not None and after.replay_id is not None and after.seq is not None:
                if replay_id < after.replay_id:
                    continue
                if replay_id == after.replay_id:
                    first_seq = max(next_seq, after.seq + 1)
            rows = self._read(_RESULTS, (first_seq, last_seq, limit))
            if rows:
                return [self._message(row, replay_id) for row in rows]
            if first_seq == next_seq:  # none of its results is stored any more
                self._writer.note(partial(changes.advance_replay, replay_id, last_seq))
        return []

    def acknowledge(self, message: StoredMessage) -> None:
        """Mark this result of a replay and all before it as acknowledged; returns at once."""
        if message.replay_id is not None and message.seq is not None:
            self._writer.note(partial(changes.advance_replay, message.replay_id, message.seq))
