"""Logging to stderr: lines with the time in a terminal, with the syslog priority if the systemd journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class JournalFormatter(logging.Formatter):
    """Prefixes every line with its syslog priority, `<6>` (sd-daemon(3)); the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its prefix."""
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def log_to_stderr() -> None:
    """Log everything from INFO up to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if _is_journal(sys.stderr):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _is_journal(stream: TextIO) -> bool:
    """True if the journal reads this stream: JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
