"""Bounded reads and atomic writes of files.

A file from outside is read by `bytes_from_file`, which looks at kind and size first. A file or directory is written
beside its place, flushed to disk, then renamed into place: a reader never sees half of it. A leftover of an
interrupted write is a hidden `.NAME.partial`, which the next write of the same name removes.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ProcunitError


def bytes_from_file(path: Path, max_bytes: int, *, check: Callable[[int, Path], None] | None = None) -> bytes:
    """The content of a plain file of at most `max_bytes`; its size is looked at before it is read.

    `check` gets the open file's descriptor before anything is read, and raises ProcunitError to refuse it.

    Raises:
        ProcunitError: it is missing, no plain file, larger than the limit or unreadable; the text names the limit.
    """
    try:
        # A pipe without a writer would block the opening, a device may have no end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ProcunitError("not a plain file", where=str(path))
            if check is not None:
                check(stream.fileno(), path)
            data = b"" if found.st_size > max_bytes else stream.read(found.st_size + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ProcunitError(f"cannot be read: {reason}", where=str(path)) from error
    if found.st_size > max_bytes:
        raise ProcunitError(f"larger than {size_in_words(max_bytes)}, the most that is read", where=str(path))
    if len(data) != found.st_size:
        raise ProcunitError("changed while it was read", where=str(path), remedy="Try again")
    return data


def size_in_words(size_bytes: int) -> str:
    """A limit on a file's size, for messages: `64 KB`, `256 MB`."""
    return f"{size_bytes >> 20} MB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10} KB"


@contextmanager
def new_directory(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty directory to fill; on exit it is flushed to disk and renamed to `path`.

    With `replace` an existing directory is moved aside first and deleted at the end; it is put back if the rename
    fails.

    Raises:
        ProcunitError: `path` exists already and `replace` is false.
    """
    partial, aside = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
    if aside.exists() and not path.exists():  # a power cut between the two renames
        aside.rename(path)
    if path.exists() and not replace:
        raise ProcunitError(
            "exists already", where=str(path), remedy="Choose another directory, or use --force to replace it"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _flush(partial)
        if path.exists():
            path.rename(aside)
        try:
            partial.rename(path)
        except OSError:
            if aside.exists():
                aside.rename(path)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    sync(path.parent)


def write_whole(path: Path, data: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Write or replace a file atomically.

    With `durable` content and name are on the disk (fsync(2)) on return; without it a power cut may lose the file, but
    never leaves half of it. `mode` is the permissions of the new file, before the umask.

    Raises:
        OSError: writing failed; an existing file is unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(directory: Path) -> None:
    for entry in directory.rglob("*"):
        sync(entry)
    sync(directory)
