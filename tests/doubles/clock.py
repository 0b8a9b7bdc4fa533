"""A clock that a test moves on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class MonotonicClock:
    """Stands for the module `time` where only its monotonic clock is used."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        """The time that the test set."""
        return self.now_s
