"""Logging to stderr: lines with the time in a terminal, with the syslog priority if the systemd journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

from edge.plain_text import plain

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class PlainFormatter(logging.Formatter):
    """One line per record, whatever the names in it; the lines of a traceback begin with `| `.

    So a name from outside cannot add a line that looks like one of ours, or send an escape sequence.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """The record's line."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's name)
        """The traceback, marked line by line."""
        return "\n".join(f"| {plain(line)}" for line in super().formatException(ei).split("\n"))


class JournalFormatter(PlainFormatter):
    """Prefixes every line with its syslog priority, `<6>` (sd-daemon(3)); the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its prefix."""
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def log_to_stderr() -> None:
    """Log everything from INFO up to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if _is_journal(sys.stderr):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)-8s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _is_journal(stream: TextIO) -> bool:
    """True if the journal reads this stream: JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
