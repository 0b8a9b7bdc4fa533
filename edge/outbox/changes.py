"""The changes that the writer commits, each within a transaction; it returns by how many messages the backlog grew."""

from __future__ import annotations

import logging
import sqlite3

RESULT = "result"

_logger = logging.getLogger(__name__)


def journal_trigger(row: tuple[int, str, str | None, int, str], db: sqlite3.Connection) -> int:
    """Journal a trigger."""
    db.execute("INSERT INTO triggers VALUES (?, ?, ?, ?, ?)", row)
    db.execute("UPDATE journal SET last_seq = ?, last_counter = ?", (row[0], row[3]))
    return 0


def store_result(seq: int, payload: bytes, created_at_utc: str, db: sqlite3.Connection) -> int:
    """Store a result and delete its trigger's journal row; a second result of a trigger is dropped."""
    if db.execute("DELETE FROM triggers WHERE seq = ?", (seq,)).rowcount == 0:
        _logger.error("trigger %d is not open; its second result is dropped", seq)
        return 0
    return store(RESULT, seq, payload, created_at_utc, db)


def store(kind: str, seq: int | None, payload: bytes, created_at_utc: str, db: sqlite3.Connection) -> int:
    """Store a message to be sent."""
    db.execute(
        "INSERT INTO messages (kind, seq, topic, payload, created_at_utc) VALUES (?, ?, ?, ?, ?)",
        (kind, seq, kind, payload, created_at_utc),
    )
    return 1


def settle(rows: list[tuple[str, str | None, int, int]], db: sqlite3.Connection) -> int:
    """Mark messages as acknowledged or quarantined."""
    change = "UPDATE messages SET state = ?, reason = ?, settled_s = ? WHERE message_id = ? AND state = 'pending'"
    return -db.executemany(change, rows).rowcount


def start_replay(first_seq: int, last_seq: int, db: sqlite3.Connection) -> int:
    """Begin to send results again."""
    db.execute("INSERT INTO replays (next_seq, last_seq) VALUES (?, ?)", (first_seq, last_seq))
    return 0


def advance_replay(replay_id: int, delivered_seq: int, db: sqlite3.Connection) -> int:
    """Go on after a result that was sent again."""
    db.execute("UPDATE replays SET next_seq = ? WHERE replay_id = ?", (delivered_seq + 1, replay_id))
    db.execute("DELETE FROM replays WHERE next_seq > last_seq")
    return 0
