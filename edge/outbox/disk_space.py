"""DiskSpace for results: what is kept for a replay and for how long, and what lets the outbox write on a full disk.

A full disk lets SQLite grow neither its file nor its log. So the file holds filler, the log has its largest size from
the start, and a ballast file holds the log's room between two runs. While the disk is nearly full the file does not
grow: filler, and when that is used up the oldest acknowledged messages, are deleted for their pages.
"""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edge.system.clock import EARLIEST_CREDIBLE_S

RETAINED_BYTES = 1 << 30
RETAINED_S = 7 * 24 * 3600
"""Acknowledged messages are kept, for a replay, until they are that old or the database is that large."""
RESERVE_BYTES = 64 << 20
"""Filler in the database, brought in over the first 16 s: some 30,000 results, at two parts a second four hours."""
LOW_DISK_BYTES = 64 << 20
"""With less free on the disk the database does not grow."""
LOG_BYTES = 16 << 20
"""The write-ahead log: the 4 MB after which SQLite folds it into the database, and the largest transactions."""
BALLAST_BYTES = LOG_BYTES + (1 << 20)
_INDEX_BYTES = 128 << 10  # enough for a log of 64 MB

_TRIM_ROWS = 500
_FILLER_BYTES = 2 << 20
_FREE_BYTES = 4 << 20  # inside the file, while the disk is nearly full
_MEBIBYTE = 1 << 20
_UNLIMITED_PAGES = 1_073_741_823
_ROW_OVERHEAD = 1.35
"""Bytes in the file a byte of payload: rows do not fill pages of 4 KB, and indexes (measured at 1 KB)."""


def retention_s(results_per_s: float, result_bytes: float) -> float:
    """For how long acknowledged results are kept at a line's rate: seven days, or until they fill the room."""
    return min(RETAINED_S, RETAINED_BYTES / (results_per_s * result_bytes * _ROW_OVERHEAD))


def disk_is_low(path: Path) -> bool:
    """Whether the disk of the database is nearly full."""
    return shutil.disk_usage(path.parent).free < LOW_DISK_BYTES


def allocate_log(path: Path) -> None:
    """Give the write-ahead log of an open database its room; zeros at its end are no part of it."""
    _allocate(path.with_name(path.name + "-wal"), LOG_BYTES)


def allocate_index(path: Path) -> BinaryIO:
    """Give the log's index its room; the file is to be closed after the database.

    SQLite maps it into memory and makes sure of one byte a page alone; where a disk of smaller blocks is full, touching
    the rest kills the process (SIGBUS). Closing any file of it drops SQLite's locks on it (fcntl(2)).
    """
    index = path.with_name(path.name + "-shm").open("r+b")
    with suppress(OSError):  # the disk is full already
        os.posix_fallocate(index.fileno(), 0, _INDEX_BYTES)
    return index


def keep_ballast(path: Path) -> None:
    """Occupy room beside the database that the next start may need, as far as the disk has it."""
    _allocate(_ballast(path), BALLAST_BYTES)


def release_ballast(path: Path) -> None:
    """Free the room, if the disk is nearly full."""
    if disk_is_low(path):
        _ballast(path).unlink(missing_ok=True)


def _ballast(path: Path) -> Path:
    return path.with_name(path.name + ".ballast")


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for start in range(0, size, _MEBIBYTE):
            os.posix_fallocate(descriptor, start, _MEBIBYTE)
    except OSError:  # the disk is full: what there is, is taken
        return
    finally:
        os.close(descriptor)


class DiskSpace:
    """The room of an open database, kept by the thread that writes to it; `file` is the database's own.

    `shortage` says that the disk is nearly full, and for how much more there is room; None while it is not.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, file: BinaryIO) -> None:
        self.shortage: str | None = None
        self._path = path
        self._db = db
        self._file = file
        self._page_bytes = self._pragma("page_size")
        self._watch_disk()

    def tend(self) -> None:
        """One step towards the right size; each is so small that a commit behind it hardly waits.

        Raises:
            sqlite3.Error: it cannot be done now.
        """
        self._watch_disk()
        free_bytes = self._pragma("freelist_count") * self._page_bytes
        if self.shortage is not None:
            if free_bytes < _FREE_BYTES:
                self._release()
            return
        if self._filler_rows() * _FILLER_BYTES < RESERVE_BYTES:
            self._fill()
        if self._pragma("page_count") * self._page_bytes - free_bytes > RETAINED_BYTES + RESERVE_BYTES:
            self._trim()
        elif self._oldest_settled_s() < time.time() - RETAINED_S:
            self._trim(int(time.time()) - RETAINED_S)

    def make_room(self) -> bool:
        """After a write for which there was no room: fold the log, give up filler or acknowledged messages.

        Returns whether there were any.

        Raises:
            sqlite3.Error: not even that is possible now.
        """
        self._watch_disk()
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return self._release()

    def _watch_disk(self) -> None:
        self.shortage = self._shortage() if disk_is_low(self._path) else None
        pages = self._pragma("page_count") if self.shortage else _UNLIMITED_PAGES
        self._db.execute(f"PRAGMA max_page_count = {pages}")

    def _shortage(self) -> str:
        free_mb = shutil.disk_usage(self._path.parent).free >> 20
        reserve_mb = (self._filler_rows() * _FILLER_BYTES + self._pragma("freelist_count") * self._page_bytes) >> 20
        return (
            f"{free_mb} MB are free on the disk of {self._path.parent}; results go on into {reserve_mb} MB set aside, "
            "then in place of those already acknowledged"
        )

    def _fill(self) -> None:
        """More filler. The file has its blocks first, so that the log can be folded if the disk fills up meanwhile."""
        size_bytes = self._pragma("page_count") * self._page_bytes + _FILLER_BYTES + _MEBIBYTE
        try:
            os.posix_fallocate(self._file.fileno(), 0, size_bytes)
        except OSError:
            return
        self._db.execute("INSERT INTO filler VALUES (zeroblob(?))", (_FILLER_BYTES,))
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _release(self) -> bool:
        released = self._db.execute("DELETE FROM filler WHERE rowid = (SELECT max(rowid) FROM filler)")
        return released.rowcount > 0 or self._trim()

    def _filler_rows(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM filler").fetchone()[0])

    def _oldest_settled_s(self) -> float:
        """When the oldest message was settled; never, if it is pending or the device did not know the time."""
        row = self._db.execute("SELECT settled_s FROM messages ORDER BY message_id LIMIT 1").fetchone()
        return float(row[0]) if row and row[0] and row[0] >= EARLIEST_CREDIBLE_S else math.inf

    def _trim(self, settled_before_s: float = math.inf) -> bool:
        """Delete those of the oldest messages that were settled before a time; False if there are none."""
        trimmed = self._db.execute(
            "DELETE FROM messages WHERE message_id IN (SELECT message_id FROM messages ORDER BY message_id LIMIT ?) "
            "AND state <> 'pending' AND coalesce(settled_s, 0) < ?",
            (_TRIM_ROWS, settled_before_s),
        )
        return trimmed.rowcount > 0

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
