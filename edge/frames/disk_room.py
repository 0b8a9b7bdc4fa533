"""What the disk of the frames still takes: while it is nearly full, the store stays as large as it was.

A disk is full when its bytes are used up, and also when its files are (inodes), whatever their size.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge.errors import ProcunitError

LOW_DISK_BYTES = 128 << 20
LOW_DISK_INODES = 64
"""With less free disk space, or fewer files left to create, the store does not grow: new frames replace old ones, to
leave space for results."""


class DiskRoom:
    """Limits that the disk of `directory` puts on the files in it.

    `problem` says why there are limits, as of the last call of `look`; None while there are none.
    """

    def __init__(self, directory: Path) -> None:
        self.problem: ProcunitError | None = None
        self.limit_bytes = self.limit_count = sys.maxsize
        self._directory = directory

    def look(self, used_bytes: int, used_count: int) -> None:
        """Look at the disk, which holds so much of the store: that becomes the limit when the disk gets nearly full.

        Raises:
            OSError: the directory cannot be read.
        """
        disk = os.statvfs(self._directory)
        free_bytes = disk.f_bavail * disk.f_frsize
        few_bytes = free_bytes < LOW_DISK_BYTES
        few_files = disk.f_files > 0 and disk.f_favail < LOW_DISK_INODES  # file systems without a limit say 0
        if few_bytes != (self.limit_bytes < sys.maxsize):
            self.limit_bytes = used_bytes if few_bytes else sys.maxsize
        if few_files != (self.limit_count < sys.maxsize):
            self.limit_count = used_count if few_files else sys.maxsize
        self.problem = None
        if few_bytes:
            self._set_problem(f"{free_bytes >> 20} MB are free on the disk")
        elif few_files:
            self._set_problem(f"the disk takes {disk.f_favail} more files, of whatever size (its inodes are used up)")

    def _set_problem(self, left: str) -> None:
        self.problem = ProcunitError(
            f"{left}; new frames replace old ones of no higher worth",
            where=str(self._directory),
            remedy="Free some disk space, or delete files",
        )
