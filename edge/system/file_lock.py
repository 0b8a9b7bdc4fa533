"""A lock on a file that ends with the process, and what it means if the file system gives none."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path

from edge.errors import ProcunitError

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""fcntl(2) answers EAGAIN or EACCES, flock(2) EWOULDBLOCK, if another process holds the lock."""


def try_lock(descriptor: int, path: Path, lock: Callable[[int, int], None] = fcntl.flock) -> bool:
    """Lock the open file `path` without waiting; False if another process holds the lock.

    `fcntl.flock` belongs to the open file, so that a forked child has it too; `fcntl.lockf` to the process alone.

    Raises:
        ProcunitError: the file system has no locks.
    """
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise ProcunitError(
            f"the file system cannot lock files: {error.strerror}",
            where=str(path),
            remedy="No other process is in the way. Use a folder on a local disk; a network file system needs a "
            "working lock service (NFS: version 4, or rpc.statd, and no option `nolock`)",
        ) from error
    return True
