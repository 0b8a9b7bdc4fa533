"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ProcunitError


@contextmanager
def new_directory(path: Path, *, replace: bool) -> Iterator[Path]:
    """A directory that appears at `path` whole, or not at all: filled beside it, flushed to disk, then renamed.

    With `replace` the old one is moved aside first and removed at the end; it is put back if the last step fails.

    Raises:
        ProcunitError: something is at `path` already and may not be replaced.
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
    """Write a file whole or not at all: beside its place first, then renamed.

    With `durable` the content and the name are on the disk (fsync(2)) when it returns; without, a power cut may lose
    the file, but never leaves half of it. `mode` are the permissions of a new file, before the umask.

    Raises:
        OSError: the disk does not take it; the old file, if there is one, is as it was.
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


def _flush(directory: Path) -> None:
    for entry in directory.rglob("*"):
        sync(entry)
    sync(directory)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
