"""How long the present step of a thread has taken, for the threads that watch it: a call that never returns is seen."""

from __future__ import annotations

import time


class StallWatch:
    """Times the steps of one thread, each within `with watch:`; any thread may ask `stalled_s`.

    A step that takes longer than `deadline_s` has stalled: what it waits for, such as a disk, does not answer.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._since_monotonic_s: float | None = None

    def __enter__(self) -> None:
        self._since_monotonic_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since_monotonic_s = None

    @property
    def stalled_s(self) -> float | None:
        """How long the present step has taken, in seconds, once that is more than `deadline_s`; else None."""
        since_monotonic_s = self._since_monotonic_s  # read once: the step may end meanwhile
        if since_monotonic_s is None:
            return None
        taken_s = time.monotonic() - since_monotonic_s
        return taken_s if taken_s > self.deadline_s else None
