"""Remembers which commands were carried out, so that a repeated command is recognised, also after a restart."""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime, timezone
from functools import partial

from edge.errors import ProcunitError
from edge.outbox.writer import OutboxWriter

MAX_COMMANDS = 10_000
"""Limit on remembered commands that have not expired; beyond it, further commands are refused."""


class CommandMemory:
    """Ids of commands that have not expired; any thread may call."""

    def __init__(self, reader: sqlite3.Connection, writer: OutboxWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._expires_s: dict[str, float] = dict(reader.execute("SELECT cmd_id, expires_s FROM commands").fetchall())

    def seen(self, cmd_id: str) -> bool:
        """True if the command is remembered."""
        with self._lock:
            return cmd_id in self._expires_s

    def remember(self, cmd_id: str, expires_at: datetime) -> None:
        """Remember a command until it expires: in memory at once, on disk with the next commit.

        `expires_at` has a time zone.

        Raises:
            ProcunitError: `MAX_COMMANDS` commands that have not expired are remembered.
        """
        now_s = datetime.now(timezone.utc).timestamp()
        with self._lock:
            if len(self._expires_s) >= MAX_COMMANDS:
                self._expires_s = {
                    known: expires_s for known, expires_s in self._expires_s.items() if expires_s > now_s
                }
            if len(self._expires_s) >= MAX_COMMANDS:
                raise ProcunitError(
                    f"{MAX_COMMANDS} commands are remembered that have not expired",
                    remedy="Send fewer commands, or commands that expire sooner",
                )
            self._expires_s[cmd_id] = expires_at.timestamp()
        self._writer.hand_in(partial(_remember, cmd_id, expires_at.timestamp(), now_s))


def _remember(cmd_id: str, expires_s: float, now_s: float, db: sqlite3.Connection) -> int:
    db.execute("DELETE FROM commands WHERE expires_s <= ?", (now_s,))
    db.execute("INSERT OR REPLACE INTO commands VALUES (?, ?)", (cmd_id, expires_s))
    return 0
