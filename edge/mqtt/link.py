"""Whether there is a connection to the broker, and if not, why: for the log and for the fault."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

PATIENCE_S = 3.0
"""The broker may be disconnected this long before it is a fault."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection and what went over it; `detail` is why there is no connection, or empty while there is one."""

    connected: bool
    detail: str
    connections: int
    sent: int
    quarantined: int
    frames_sent: int


class Link:
    """Written by the publisher's thread alone; any thread may read.

    `detail` is why there is no connection, empty while there is one; `connections` counts them since the start.
    `where` names the broker in the log.
    """

    def __init__(self, where: str) -> None:
        self.detail = "not connected yet"
        self.connections = 0
        self._where = where
        self._lost_at_s = time.monotonic()

    def problem(self) -> str | None:
        """Why there has been no connection for longer than `PATIENCE_S`; None while there is one, or not for long."""
        detail = self.detail
        return detail if detail and time.monotonic() - self._lost_at_s > PATIENCE_S else None

    def connected(self) -> None:
        """There is a connection now."""
        self.connections += 1
        if self.detail:
            _logger.info("connected to the broker at %s", self._where)
        self.detail = ""

    def lost(self, reason: str) -> None:
        """There is no connection, or no longer."""
        if reason != self.detail:
            _logger.warning("no connection to the broker at %s: %s", self._where, reason)
        self._note(reason)

    def stopped(self) -> None:
        """The publisher closed the connection, and makes no other."""
        self._note("stopped")

    def _note(self, detail: str) -> None:
        if not self.detail:
            self._lost_at_s = time.monotonic()
        self.detail = detail
