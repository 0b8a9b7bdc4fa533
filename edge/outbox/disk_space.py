"""Disk space for results: how long they are kept for a replay, and how the outbox still writes on a full disk.

On a full disk SQLite can extend neither its file nor its log, so both are given their space in advance:

    outbox.db          +-----------------------------+------------+-------------------+
                       | messages                    | free pages | filler, 64 MB     |
                       | acknowledged  |  pending    |            | 32 rows of 2 MB   |
                       +-----------------------------+------------+-------------------+
                         ^ given up second             ^ new        ^ given up first,
                           (the oldest ones)             results      for its pages
    outbox.db-wal      [ write-ahead log, 16 MB from the start ]
    outbox.db-shm      [ index of the log, 128 KB ]
    outbox.db.ballast  [ 17 MB: holds the space of the log between two runs ]

While the disk is nearly full, outbox.db does not grow (max_page_count). When its free pages fall below 4 MB, filler is
deleted, and when no filler is left, the oldest acknowledged messages. Pending messages are never deleted; those that
the broker refused are deleted only for want of space, when no acknowledged ones are left. SQLite deletes the log when
it closes the database; a start on a nearly full disk deletes the ballast file to have that space again.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edge.outbox.running_time import FIRST_UNIX_S, RunningTime

RETAINED_BYTES = 1 << 30
RETAINED_S = 7 * 24 * 3600
"""Acknowledged messages are kept for a replay while the device runs for this long, or until the database is this large;
refused ones until they alone are as large."""
RESERVE_BYTES = 64 << 20
"""Filler, written during the first 16 s: space for about 30,000 results, four hours at two parts per second."""
LOW_DISK_BYTES = 64 << 20
"""With less free disk space the database does not grow."""
LOG_BYTES = 16 << 20
"""Write-ahead log: the 4 MB after which SQLite copies it into the database, plus the largest transactions."""
BALLAST_BYTES = LOG_BYTES + (1 << 20)
_INDEX_BYTES = 128 << 10  # enough for a log of 64 MB

_TRIM_ROWS = 500
_FILLER_BYTES = 2 << 20
_FREE_BYTES = 4 << 20  # kept as free pages in the file while the disk is nearly full
_MEBIBYTE = 1 << 20
_UNLIMITED_PAGES = 1_073_741_823
_OLDEST_ACKNOWLEDGED = "SELECT message_id FROM messages WHERE state = 'acknowledged' ORDER BY message_id LIMIT ?"
_OLDEST_REFUSED = "SELECT message_id FROM messages WHERE state = 'quarantined' ORDER BY message_id LIMIT ?"
_ROW_OVERHEAD = 1.35
"""Bytes in the file per byte of payload: partly filled pages of 4 KB, and indexes (measured at 1 KB payload)."""


_logger = logging.getLogger(__name__)


def retention_s(results_per_s: float, result_bytes: float) -> float:
    """How long acknowledged results are kept at this rate: seven days, or until they fill `RETAINED_BYTES`."""
    return min(RETAINED_S, RETAINED_BYTES / (results_per_s * result_bytes * _ROW_OVERHEAD))


def disk_is_low(path: Path) -> bool:
    """True if less than `LOW_DISK_BYTES` are free on the disk of the database."""
    return shutil.disk_usage(path.parent).free < LOW_DISK_BYTES


def allocate_log(path: Path) -> None:
    """Allocate the write-ahead log of an open database; SQLite ignores the zeros at its end."""
    _allocate(path.with_name(path.name + "-wal"), LOG_BYTES)


def allocate_index(path: Path) -> BinaryIO:
    """Allocate the index of the log; close the returned file after the database.

    SQLite maps the index into memory but writes only one byte per page in advance; on a full disk with smaller blocks,
    touching the rest kills the process (SIGBUS). Closing any descriptor of the file drops SQLite's locks (fcntl(2)).
    """
    index = path.with_name(path.name + "-shm").open("r+b")
    with suppress(OSError):  # the disk is full already
        os.posix_fallocate(index.fileno(), 0, _INDEX_BYTES)
    return index


def keep_ballast(path: Path) -> None:
    """Create the ballast file beside the database, as large as the disk allows."""
    _allocate(_ballast(path), BALLAST_BYTES)


def release_ballast(path: Path) -> None:
    """Delete the ballast file if the disk is nearly full."""
    if disk_is_low(path):
        _ballast(path).unlink(missing_ok=True)


def _ballast(path: Path) -> Path:
    return path.with_name(path.name + ".ballast")


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for start in range(0, size, _MEBIBYTE):
            os.posix_fallocate(descriptor, start, _MEBIBYTE)
    except OSError:  # the disk is full: keep what was allocated
        return
    finally:
        os.close(descriptor)


class DiskSpace:
    """Manages the space of an open database; only the writer thread calls. `file` is the open database file.

    `shortage` is None, or while the disk is nearly full a text with the free and reserved space.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, file: BinaryIO, running_time: RunningTime) -> None:
        self.shortage: str | None = None
        self._path = path
        self._db = db
        self._file = file
        self._running_time = running_time
        self._page_bytes = self._pragma("page_size")
        self._watch_disk()

    def tend(self) -> None:
        """Do one step of filling, releasing or trimming, short enough not to delay the next commit.

        Raises:
            sqlite3.Error: the step is not possible now.
        """
        self._watch_disk()
        self._running_time.keep(self._db)
        free_bytes = self._pragma("freelist_count") * self._page_bytes
        if self.shortage is not None:
            if free_bytes < _FREE_BYTES:
                self._release()
            return
        if self._filler_rows() * _FILLER_BYTES < RESERVE_BYTES:
            self._fill()
        if self._pragma("page_count") * self._page_bytes - free_bytes > RETAINED_BYTES + RESERVE_BYTES:
            self._trim()
        elif self._oldest_settled_s() < (too_old_s := self._running_time.now_s() - RETAINED_S):
            self._trim(too_old_s)

    def release_space(self) -> bool:
        """After a write that found the disk full: copy the log into the file, delete filler or acknowledged messages.

        Returns False if there was nothing to delete.

        Raises:
            sqlite3.Error: this is not possible now.
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
            f"{free_mb} MB are free on the disk of {self._path.parent}; results use {reserve_mb} MB of reserved space, "
            "then replace those already acknowledged"
        )

    def _fill(self) -> None:
        """Add a row of filler; its blocks are allocated first, so that the log can be copied if the disk fills up."""
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
        """Running time when the oldest acknowledged message was settled; infinite if there is none."""
        oldest = self._db.execute(
            "SELECT settled_s FROM messages WHERE state = 'acknowledged' ORDER BY message_id LIMIT 1"
        ).fetchone()
        if oldest is None:
            return math.inf
        return float(oldest[0]) if oldest[0] is not None and oldest[0] < FIRST_UNIX_S else 0.0

    def _trim(self, settled_before_s: float = math.inf) -> bool:
        """Delete the oldest acknowledged messages that were settled before this running time; False if there are none.

        Without a time, and if there are none, the oldest messages that the broker refused are deleted.
        """
        if self._delete(_OLDEST_ACKNOWLEDGED, settled_before_s):
            return True
        refused = 0 if settled_before_s < math.inf else self._delete(_OLDEST_REFUSED, math.inf)
        if refused:
            _logger.error("the disk space is used up: %d messages that the broker had refused were deleted", refused)
        return refused > 0

    def _delete(self, oldest: str, settled_before_s: float) -> int:
        return self._db.execute(
            f"DELETE FROM messages WHERE message_id IN ({oldest}) "  # noqa: S608
            "AND CASE WHEN settled_s < ? THEN settled_s ELSE 0 END < ?",
            (_TRIM_ROWS, FIRST_UNIX_S, settled_before_s),
        ).rowcount

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
