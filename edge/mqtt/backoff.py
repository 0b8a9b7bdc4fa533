"""Pauses between attempts to connect, and before a busy broker is tried again."""

from __future__ import annotations

from random import SystemRandom

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class Backoff:
    """Pauses that grow with every failure, each drawn at random so that many devices do not reconnect at once.

    Full jitter: the pause is uniform between 0 and a bound that doubles (M. Brooker, AWS Architecture Blog, 2015).
    """

    def __init__(self) -> None:
        self._bound_s = FIRST_PAUSE_S
        self._random = SystemRandom()

    def pause_s(self) -> float:
        """Draw the next pause and double the bound."""
        bound_s, self._bound_s = self._bound_s, min(2 * self._bound_s, LONGEST_PAUSE_S)
        return self._random.uniform(0, bound_s)

    def contested_pause_s(self) -> float:
        """Draw the next pause while another client uses the client id; never a short one."""
        self.pause_s()
        return self._random.uniform(self._bound_s, 2 * self._bound_s)

    def succeeded(self) -> None:
        """Make the next pause short again."""
        self._bound_s = FIRST_PAUSE_S
