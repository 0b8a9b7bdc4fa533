"""How long this device has run, over all its starts: the clock by which stored messages age.

The wall clock steps: a time server, a person or a missing battery moves it by days, and a step is not age. So the age
of a message is counted in seconds of the monotonic clock while the program runs, kept in the database. The time that
the device is switched off does not count; the size limit of the database holds without it.
"""

from __future__ import annotations

import sqlite3
import time

from edge.system.clock import EARLIEST_CREDIBLE_S

KEEP_S = 60.0
"""How often the count is written: a power cut makes messages at most this much younger."""

FIRST_UNIX_S = int(EARLIEST_CREDIBLE_S)
"""A number from here on is no running time: a version that counted on the wall clock stored it, and such a message ages
from the change of version on."""


class RunningTime:
    """Seconds of running over all starts; `now_s` may be called by any thread, `keep` by the writer's alone."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._before_s = float(db.execute("SELECT seconds FROM running").fetchone()[0])
        self._started_monotonic_s = self._kept_monotonic_s = time.monotonic()

    def now_s(self) -> int:
        """The count now."""
        return int(self._before_s + time.monotonic() - self._started_monotonic_s)

    def keep(self, db: sqlite3.Connection, *, every_s: float = KEEP_S) -> None:
        """Write the count if the last time is `every_s` ago.

        Raises:
            sqlite3.Error: that is not possible now.
        """
        now_s = time.monotonic()
        if now_s - self._kept_monotonic_s >= every_s:
            db.execute("UPDATE running SET seconds = ?", (self.now_s(),))
            self._kept_monotonic_s = now_s
