"""Who else may change or read a file: the service trusts root, its own user, and nobody else."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from edge.errors import ProcunitError

_OTHERS = 0o077
_NO_MODES = "most USB sticks have no permissions: copy it to a disk first"


def refuse_if_readable_by_others(descriptor: int, path: Path) -> None:
    """Refuse an open file with a secret that any other user than its owner may read or change.

    Raises:
        ProcunitError: they may.
    """
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & _OTHERS:
        raise ProcunitError(
            "other users of this computer may read or change this private key",
            where=str(path),
            remedy=f"Run: chmod 600 {path} ({_NO_MODES})",
        )


def refuse_if_anybody_may_write(descriptor: int, path: Path) -> None:
    """Refuse an open file that decides what is trusted and that every user may change.

    Raises:
        ProcunitError: they may.
    """
    if os.fstat(descriptor).st_mode & stat.S_IWOTH and not os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        raise ProcunitError(
            "every user of this device may change this file",
            where=str(path),
            remedy=f"Run: chmod o-w {path} ({_NO_MODES})",
        )


def who_may_change(path: Path) -> str | None:
    """Who else than root and this user may change what lies at `path`, with the command against it; None if nobody.

    The folders above count too: whoever may write there can put another file in its place. A folder with the sticky
    bit does not, nor does anything on a read-only file system.
    """
    real = path.resolve()
    for place in (real, *real.parents):
        try:
            if os.statvfs(place).f_flag & os.ST_RDONLY:
                continue
            problem = _problem(place, place.stat())
        except OSError:
            continue  # whoever opens it says what is wrong with it
        if problem is not None:
            return problem
    return None


def _problem(place: Path, status: os.stat_result) -> str | None:
    if status.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to {_user(status.st_uid)}. Run: chown {_user(os.geteuid())} {place}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH:
        return f"every user may write to {place}. Run: chmod o-w {place}"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        return f"the group {_group(status.st_gid)} may write to {place}. Run: chmod g-w {place}"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
