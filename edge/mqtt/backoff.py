"""How fast: pauses between attempts to connect, and frames that leave results their share of the link."""

from __future__ import annotations

from random import SystemRandom

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
FIRST_FRAME_BYTES = 64_000
"""Size of the first frame, while nothing is known of the link: half a second at 1 Mbit/s."""
MIN_FRAME_BYTES, MAX_FRAME_BYTES = 24_000, 900_000
"""Sizes between which a frame is fitted to the link; the larger one is below what common brokers take."""
FRAME_SHARE_S = 0.4
"""A frame may hold up the results behind it for so long."""


class Backoff:
    """Pauses that grow while nothing succeeds, drawn anew each time so that many devices never come at once.

    Full jitter: the pause is uniform between 0 and a bound that doubles (M. Brooker, AWS Architecture Blog, 2015).
    """

    def __init__(self) -> None:
        self._bound_s = FIRST_PAUSE_S
        self._random = SystemRandom()

    def pause_s(self) -> float:
        """The next pause."""
        bound_s, self._bound_s = self._bound_s, min(2 * self._bound_s, LONGEST_PAUSE_S)
        return self._random.uniform(0, bound_s)

    def succeeded(self) -> None:
        """Something was achieved: the next pause is short again."""
        self._bound_s = FIRST_PAUSE_S


class FramePace:
    """When the next frame may go and how large it may be.

    MQTT cannot interrupt a packet, so a result waits for the frame before it. The size follows what the link carried:
    bytes of a frame over the time to its PUBACK. All times are of the monotonic clock.
    """

    def __init__(self, frames_per_min: int) -> None:
        self.max_bytes = FIRST_FRAME_BYTES
        self._interval_s = 60 / frames_per_min
        self._next_s = self._sent_s = 0.0
        self._sent_bytes = 0

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the next frame may go; 0 or less if it may go now."""
        return self._next_s - now_s

    def sent(self, size_bytes: int, now_s: float) -> None:
        """A frame goes out."""
        self._sent_bytes, self._sent_s = size_bytes, now_s
        self._next_s = now_s + self._interval_s

    def acknowledged(self, now_s: float) -> None:
        """The frame's PUBACK is there."""
        took_s = max(now_s - self._sent_s, 1e-3)
        carried = int(self._sent_bytes / took_s * FRAME_SHARE_S)
        if took_s > FRAME_SHARE_S:
            self.max_bytes = max(carried, MIN_FRAME_BYTES)
        else:  # what a buffer swallowed says little of more than that
            self.max_bytes = max(self.max_bytes, min(carried, 2 * self._sent_bytes, MAX_FRAME_BYTES))
