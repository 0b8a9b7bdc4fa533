"""The database file of the outbox: schema, opening, locking, and moving a damaged file aside."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, TextIO

from edge.errors import ProcunitError
from edge.outbox.disk_space import allocate_index, allocate_log, keep_ballast, release_ballast
from edge.system.clock import utc_now
from edge.system.file_lock import try_lock

SCHEMA_VERSION = 2

_BUSY_TIMEOUT_S = 2.0

_JOURNAL_AND_MESSAGES = """
CREATE TABLE journal (epoch TEXT NOT NULL, last_seq INTEGER NOT NULL, last_counter INTEGER);
CREATE TABLE triggers (
    seq INTEGER PRIMARY KEY, frame_id TEXT NOT NULL, part_id TEXT, counter INTEGER NOT NULL,
    triggered_at_utc TEXT NOT NULL
);
CREATE TABLE messages (
    message_id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, seq INTEGER, topic TEXT NOT NULL,
    payload BLOB NOT NULL, state TEXT NOT NULL DEFAULT 'pending', reason TEXT
);
CREATE UNIQUE INDEX one_result_a_trigger ON messages(seq) WHERE kind = 'result';
CREATE INDEX pending ON messages(message_id) WHERE state = 'pending';
"""
"""Schema 1."""

_REPLAYS_COMMANDS_AND_FILLER = """
ALTER TABLE messages ADD COLUMN created_at_utc TEXT NOT NULL DEFAULT '{now_utc}';
ALTER TABLE messages ADD COLUMN settled_s INTEGER;
CREATE TABLE replays (
    replay_id INTEGER PRIMARY KEY AUTOINCREMENT, next_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL
);
CREATE TABLE commands (cmd_id TEXT PRIMARY KEY, expires_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE filler (bytes BLOB NOT NULL);
"""
"""Schema 2; `settled_s` is the running time (`running_time.py`) of the acknowledgement, NULL for rows settled under
schema 1."""

_RUNNING = """
CREATE TABLE IF NOT EXISTS running (seconds INTEGER NOT NULL);
INSERT INTO running SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM running);
"""
"""Beside schema 2, so that the version before can still open the file: it kept Unix times in `settled_s`, takes the
smaller numbers of this one for times of a clock that was not set, and deletes those messages by size alone."""

_INDEXES = (
    "CREATE INDEX IF NOT EXISTS acknowledged ON messages(message_id) WHERE state = 'acknowledged'",
    "CREATE INDEX IF NOT EXISTS quarantined ON messages(kind, reason, message_id) WHERE state = 'quarantined'",
)
"""For trimming, and for finding refused messages; not part of a schema, since every query works without them."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Database:
    """An open database with one connection for the writer thread and one for reading.

    `epoch` is the random name given at its creation; `set_aside` is the new path of a damaged predecessor, or None.
    """

    path: Path
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    epoch: str
    set_aside: Path | None
    lock_file: TextIO
    database_file: BinaryIO
    index_file: BinaryIO

    def close(self) -> None:
        """Close the database, the writer's connection last: closing it copies the write-ahead log into the file.

        The ballast file then takes the space of the log, so that the database can be opened again on a full disk.
        """
        try:
            self.reader.close()
            self.writer.close()
            self.database_file.close()  # closing it drops SQLite's locks on the file (fcntl(2))
            self.index_file.close()
            keep_ballast(self.path)
        except (OSError, sqlite3.Error) as error:  # what was committed is in the log, and is found there
            _logger.warning("%s cannot be closed properly: %s", self.path, error)
        finally:
            self.lock_file.close()


def open_database(path: Path) -> Database:
    """Open or create the database; on a full disk the ballast file of an earlier run is given up for it.

    Raises:
        ProcunitError: it cannot be opened or locked, was made by another version, or another process owns it.
    """
    lock_file = _lock(path)
    try:
        release_ballast(path)
        writer, set_aside = _open_or_set_aside(path)
        epoch = str(writer.execute("SELECT epoch FROM journal").fetchone()[0])
        reader = _connect(path)
        database_file, index_file = path.open("r+b"), allocate_index(path)
        allocate_log(path)
        keep_ballast(path)
        return Database(path, writer, reader, epoch, set_aside, lock_file, database_file, index_file)
    except (sqlite3.OperationalError, OSError) as error:
        lock_file.close()
        raise _cannot_open(path, error) from error
    except BaseException:
        lock_file.close()
        raise


def mark_damaged(path: Path) -> None:
    """Mark the database to be moved aside at the next start, as the check there may not find this damage."""
    try:
        _damage_marker(path).touch()
    except OSError as error:  # a disk that fails altogether: the next start will see
        _logger.warning("%s cannot be marked as damaged: %s", path, error)


def _damage_marker(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _lock(path: Path) -> TextIO:
    """Take a lock that ends with the process; a POSIX record lock, because a forked child must not inherit it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        locked = try_lock(lock_file.fileno(), path, fcntl.lockf)
    except BaseException:
        lock_file.close()
        raise
    if not locked:
        lock_file.close()
        raise ProcunitError(
            "another process uses this outbox", where=str(path), remedy="Stop it, or choose another state_dir"
        )
    return lock_file


def _open_or_set_aside(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """Open and check the database; a damaged one is moved aside and replaced by a new one."""
    try:
        return _open(path), None
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        _logger.error("%s is damaged (%s); moving it aside", path, error)  # noqa: TRY400  (handled here)
    aside = next(free for n in count(1) if not (free := path.with_name(f"{path.name}.damaged-{n}")).exists())
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    _damage_marker(path).unlink(missing_ok=True)
    return _open(path), aside


def _open(path: Path) -> sqlite3.Connection:
    db = _connect(path)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = OFF")  # overwriting deleted rows would double the cost of trimming
        db.execute("PRAGMA temp_store = MEMORY")
        _check_and_migrate(db, path)
    except BaseException:
        db.close()
        raise
    with suppress(sqlite3.OperationalError):  # the disk is full; without them, queries take longer
        for index in _INDEXES:
            db.execute(index)
    return db


def in_use(path: Path) -> bool:
    """Whether a process has this database open as its outbox (on this device); True as well if that is unknown."""
    try:
        with path.with_name(path.name + ".lock").open("r+") as lock_file:
            fcntl.lockf(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _check_and_migrate(db: sqlite3.Connection, path: Path) -> None:
    marked = _damage_marker(path).exists()
    verdict = "found while in use" if marked else db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        _execute_all(db, _RUNNING)
        return
    if version not in (0, 1):
        raise ProcunitError(
            f"made by another version of procunit (schema {version}, this one reads up to {SCHEMA_VERSION})",
            where=str(path),
            remedy="Install the version that made it, or move the file away to start a new epoch",
        )
    db.execute("BEGIN IMMEDIATE")
    if version == 0:
        _execute_all(db, _JOURNAL_AND_MESSAGES)
        db.execute("INSERT INTO journal VALUES (?, 0, NULL)", (secrets.token_hex(8),))
    _execute_all(db, _REPLAYS_COMMANDS_AND_FILLER.format(now_utc=utc_now()))
    _execute_all(db, _RUNNING)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _execute_all(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _cannot_open(path: Path, error: OSError | sqlite3.Error) -> ProcunitError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    remedy = "Check that the state directory exists, is writable and that its disk is not full"
    if "locked" in reason:
        remedy = "Close the program that has the file open, such as a database browser"
    elif _is_read_only(path):
        remedy = (
            "Its file system is mounted read-only, as the kernel does after a disk error: look into `dmesg`, check the "
            "disk, and mount it writable again, or choose another state_dir"
        )
    return ProcunitError(f"cannot open the outbox: {reason}", where=str(path), remedy=remedy)


def _is_read_only(path: Path) -> bool:
    """Whether the file system that holds `path`, or would hold it, is mounted read-only."""
    folder = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
