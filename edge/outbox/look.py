"""A look into the outbox of a device from another process, without disturbing it."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any


def epoch_of(path: Path) -> str | None:
    """The epoch of the outbox; None if there is none that can be read."""
    rows = _rows(path, "SELECT epoch FROM journal", ())
    return str(rows[0][0]) if rows else None


def newest_event(path: Path, fault: str, max_age_s: float) -> str | None:
    """Time (UTC) of the newest stored event about a fault, if it is not older than that; else None."""
    sql = "SELECT payload FROM messages WHERE kind = 'event' AND instr(payload, ?) ORDER BY message_id DESC LIMIT 1"
    for (payload,) in _rows(path, sql, (f'"{fault}"'.encode(),)):
        made = str(json.loads(payload)["creationTime"])
        if time.time() - datetime.fromisoformat(made.replace("Z", "+00:00")).timestamp() <= max_age_s:
            return made
    return None


def _rows(path: Path, sql: str, values: tuple[bytes, ...]) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(sql, values).fetchall()
    except sqlite3.Error:
        return []
