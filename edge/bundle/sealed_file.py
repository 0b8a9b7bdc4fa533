"""A file of which size and hash are known: what is read is what is checked, and no link below its folder is followed.

A bundle is checked when it is opened and its files are used later, by another thread or process; in between they may be
exchanged. Whoever uses a file therefore gets its bytes from here, hashed after they were read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge.bundle.manifest import FileEntry
from edge.errors import ProcunitError

_BLOCK_BYTES = 1 << 20
_COPY_AGAIN = "Copy the bundle again"


@dataclass(frozen=True)
class SealedFile:
    """The file `below` (with `/` for folders) in the folder `root`, and the size and hash that it must have."""

    root: Path
    below: str
    entry: FileEntry

    @property
    def path(self) -> Path:
        """Where it lies; for messages, and never to be opened."""
        return self.root / self.below

    @property
    def name(self) -> str:
        """The name without folders."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name without folders and suffix."""
        return self.path.stem

    def __str__(self) -> str:
        return str(self.path)

    def read_bytes(self) -> bytes:
        """The content, with the hash that was sealed.

        Raises:
            ProcunitError: it cannot be read, or is not what was sealed.
        """
        with self._opened() as stream:
            data = stream.read(self.entry.size_bytes + 1)
        self._check(hashlib.sha256(data).hexdigest(), len(data))
        return data

    def check(self) -> None:
        """Hash the content in blocks, without keeping it.

        Raises:
            ProcunitError: it cannot be read, or is not what was sealed.
        """
        digest, size_bytes = hashlib.sha256(), 0
        with self._opened() as stream:
            while size_bytes <= self.entry.size_bytes and (block := stream.read(_BLOCK_BYTES)):
                digest.update(block)
                size_bytes += len(block)
        self._check(digest.hexdigest(), size_bytes)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with opened_below(self.root, self.below) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if size_bytes != self.entry.size_bytes:
                self._check("", size_bytes)
            yield stream

    def _check(self, sha256: str, size_bytes: int) -> None:
        if size_bytes != self.entry.size_bytes:
            problem = f"{size_bytes} bytes long instead of {self.entry.size_bytes}: truncated or changed"
        elif sha256 != self.entry.sha256:
            problem = "its content is not what was signed (sha256 differs)"
        else:
            return
        raise ProcunitError(problem, where=str(self), remedy=_COPY_AGAIN)


@contextmanager
def opened_below(root: Path, below: str) -> Iterator[BinaryIO]:
    """Open a plain file for reading; `root` may be reached by links, nothing below it may be one.

    Raises:
        ProcunitError: it is missing, a link, no plain file, or cannot be read; also if reading fails within the block.
    """
    where = str(root / below)
    try:
        with os.fdopen(_descriptor_below(root, below), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise _not_plain(where)
            yield stream
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise _not_plain(where, f" ({error.strerror})") from error
        raise ProcunitError(f"cannot be read: {error.strerror}", where=where) from error


def _descriptor_below(root: Path, below: str) -> int:
    *folders, name = below.split("/")
    flags = os.O_RDONLY | os.O_CLOEXEC
    folder = os.open(root, flags | os.O_DIRECTORY)
    try:
        for inner in folders:
            outer, folder = folder, os.open(inner, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(outer)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # a pipe must not be waited for
    finally:
        os.close(folder)


def _not_plain(where: str, reason: str = "") -> ProcunitError:
    return ProcunitError(f"missing, or not a plain file{reason}", where=where, remedy=_COPY_AGAIN)
