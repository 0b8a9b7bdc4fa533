"""Messages that a broker refused and that are kept: which are tried again, and how they return to the queue.

No row needs a mark of its own: why a message was refused is the beginning of its `reason`, also in older databases.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from edge.outbox.writer import OutboxEndedError, OutboxWriter

if TYPE_CHECKING:
    from edge.outbox.outbox import StoredMessage


class Refusal(str, Enum):
    """How a message was refused: a part of the reason with which it is kept."""

    ANSWER = "the broker refused it: "
    HANG_UP = "the connection broke at this message "
    TOO_LARGE = " bytes; the broker accepts packets of "


IS_TOO_LARGE = f"(state = 'quarantined' AND coalesce(reason, '') LIKE '%{Refusal.TOO_LARGE.value}%')"
"""SQL condition: sending the message again is of no use before the broker accepts larger packets."""

_GROUPS = "SELECT kind, reason FROM messages WHERE state = 'quarantined' GROUP BY kind, reason ORDER BY min(message_id)"
_NEXT = (
    "SELECT message_id, kind, seq, topic, payload, created_at_utc, reason FROM messages "
    "WHERE state = 'quarantined' AND kind = ? AND reason IS ? ORDER BY message_id <= ?, message_id LIMIT 1"
)
_IN_GROUP = "WHERE state = 'quarantined' AND kind = ? AND reason IS ?"
_FITTING = f"WHERE state = 'quarantined' AND {IS_TOO_LARGE} AND length(payload) <= ?"


@dataclass(frozen=True, slots=True)
class RefusedGroup:
    """Messages of one kind that were refused for one reason."""

    kind: str
    reason: str | None

    @property
    def hung_up(self) -> bool:
        """Whether the broker closed the connection on them, so that trying one may cost a connection."""
        return (self.reason or "").startswith(Refusal.HANG_UP.value)


@dataclass(frozen=True, slots=True)
class Returned:
    """Messages that are to be sent again: how many, and the highest id."""

    count: int
    last_id: int


class RefusedMessages:
    """The refused messages of an outbox; any thread may call. `read` gives nothing while the disk fails."""

    def __init__(
        self,
        read: Callable[[str, tuple[int | str | None, ...]], list[tuple[Any, ...]]],
        writer: OutboxWriter,
        message: Callable[[tuple[Any, ...]], StoredMessage],
        now_s: Callable[[], int],
    ) -> None:
        self._read, self._writer, self._message, self._now_s = read, writer, message, now_s

    def groups(self) -> list[RefusedGroup]:
        """The groups of which a message can be tried again, without those that are too large for the broker."""
        groups = [RefusedGroup(*row) for row in self._read(_GROUPS, ())]
        return [group for group in groups if Refusal.TOO_LARGE.value not in (group.reason or "")]

    def next_of(self, group: RefusedGroup, after_id: int) -> StoredMessage | None:
        """The group's oldest message above `after_id`, or its oldest one if there is none; None if it is empty."""
        rows = self._read(_NEXT, (group.kind, group.reason, after_id))
        return self._message(rows[0]) if rows else None

    def accept(self, message_id: int) -> None:
        """Mark a refused message as acknowledged, as it was sent again and accepted; returns at once."""
        with suppress(OutboxEndedError):
            self._writer.hand_in(partial(_accept, message_id, self._now_s()))

    def change_reason(self, message_id: int, reason: str) -> None:
        """Change why a refused message is kept; returns at once."""
        with suppress(OutboxEndedError):
            self._writer.hand_in(partial(_change_reason, message_id, reason))

    def return_group(self, group: RefusedGroup) -> Returned:
        """Make the messages of a group unsent again."""
        return self._return(_IN_GROUP, (group.kind, group.reason))

    def return_fitting(self, max_payload_bytes: int) -> Returned:
        """Make those unsent again that were too large for the broker and no longer are."""
        return self._return(_FITTING, (max_payload_bytes,))

    def _return(self, where: str, values: tuple[int | str | None, ...]) -> Returned:
        rows = self._read(f"SELECT COUNT(*), MAX(message_id) FROM messages {where}", values)  # noqa: S608
        count, last_id = rows[0] if rows else (0, 0)
        if count:
            with suppress(OutboxEndedError):
                self._writer.hand_in(partial(_return_rows, where, values))
        return Returned(int(count), int(last_id or 0))


def _accept(message_id: int, now_s: int, db: sqlite3.Connection) -> int:
    db.execute(
        "UPDATE messages SET state = 'acknowledged', reason = NULL, settled_s = ? "
        "WHERE message_id = ? AND state = 'quarantined'",
        (now_s, message_id),
    )
    return 0


def _change_reason(message_id: int, reason: str, db: sqlite3.Connection) -> int:
    db.execute(
        "UPDATE messages SET reason = ? WHERE message_id = ? AND state = 'quarantined'",
        (reason, message_id),
    )
    return 0


def _return_rows(where: str, values: tuple[int | str | None, ...], db: sqlite3.Connection) -> int:
    change = "UPDATE messages SET state = 'pending', reason = NULL, settled_s = NULL "
    return db.execute(change + where, values).rowcount
