"""Logging to stderr in lines: with the time in a terminal, with the syslog priority where the journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class JournalFormatter(logging.Formatter):
    """Every line with its priority in front, as sd-daemon(3) has it; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its prefix."""
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def log_to_stderr() -> None:
    """Send everything from INFO on to stderr, for as long as the process lives."""
    handler = logging.StreamHandler(sys.stderr)
    if _is_journal(sys.stderr):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _is_journal(stream: TextIO) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM holds its device and inode (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
