"""The secret of an engine cache: 32 random bytes that only the service's user can read, made once.

With it the cache marks (HMAC-SHA256) what this device has built. A secret that others could read or have put there
counts as none: the next build makes another, and everything marked with the old one is built again.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
from pathlib import Path

from edge.bundle.sealed_file import opened_below
from edge.errors import ProcunitError
from edge.system.files import write_whole

SECRET_FILE = "secret"  # noqa: S105  (a name)
MARK_BYTES = 32
"""Length of a mark."""

_SECRET_BYTES = 32
_logger = logging.getLogger(__name__)


class CacheSecret:
    """Makes and checks the marks of one engine cache."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def mark(self, data: bytes, *, create: bool) -> bytes:
        """The mark of `data`; with `create` a missing or unusable secret is made new, without it there is no mark.

        Raises:
            OSError: the secret cannot be written.
        """
        secret = self._read()
        if secret is None and create:
            secret = os.urandom(_SECRET_BYTES)
            write_whole(self._directory / SECRET_FILE, secret, mode=0o600)
            if os.geteuid() == 0:  # root builds for the service, whose user must be able to read it
                owner = os.stat(self._directory)
                os.chown(self._directory / SECRET_FILE, owner.st_uid, owner.st_gid)
        return b"" if secret is None else hmac.digest(secret, data, "sha256")

    def is_marked(self, data: bytes, mark: bytes) -> bool:
        """True if `mark` was made for `data` with this cache's secret."""
        own = self.mark(data, create=False)
        return len(own) == MARK_BYTES and hmac.compare_digest(own, mark)

    def _read(self) -> bytes | None:
        path = self._directory / SECRET_FILE
        if not path.exists() and not path.is_symlink():
            return None
        try:
            with opened_below(self._directory, SECRET_FILE) as stream:
                problem = _problem(os.fstat(stream.fileno()), os.stat(self._directory))
                secret = stream.read(_SECRET_BYTES + 1)
        except ProcunitError as error:
            problem, secret = error.what, b""
        if problem is None and len(secret) != _SECRET_BYTES:
            problem = f"it is {len(secret)} bytes long instead of {_SECRET_BYTES}"
        if problem is not None:
            _logger.warning("%s: the engine cache's secret is not used: %s; engines are built again", path, problem)
            return None
        return secret


def _problem(status: os.stat_result, directory: os.stat_result) -> str | None:
    """Why a secret may be known to others or come from them; None if it cannot."""
    owners = {os.geteuid()} | ({directory.st_uid} if os.geteuid() == 0 else set())
    if status.st_uid not in owners:
        return f"it belongs to another user (uid {status.st_uid})"
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_nlink != 1:
        return f"others may read it (mode {stat.S_IMODE(status.st_mode):o}, {status.st_nlink} names)"
    return None
