"""Latency percentiles of each stage over the last minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from edge.contract.metrics import Percentiles, StageLatencies
from edge.messages import Timings

WINDOW_S = 60.0
MAX_PARTS = 6000
"""At most this many of the newest parts are kept."""

_STAGES = tuple(StageLatencies.model_fields)


class Latencies:
    """The stage timings of inspected parts; one thread adds, any thread may read."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._newest: deque[tuple[float, Timings]] = deque(maxlen=MAX_PARTS)

    def add(self, timings: Timings) -> None:
        """Add the timings of an inspected part."""
        with self._lock:
            self._newest.append((self._monotonic_s(), timings))

    def percentiles(self) -> StageLatencies:
        """p50 and p99 (nearest rank) of each stage over the last minute; None if no part was inspected in it."""
        since_s = self._monotonic_s() - WINDOW_S
        with self._lock:
            newest = list(self._newest)
        recent = [timings for added_s, timings in newest if added_s >= since_s]
        return StageLatencies.model_validate(
            {stage: _percentiles([getattr(timings, f"{stage}_ms") for timings in recent]) for stage in _STAGES}
        )


def _percentiles(times_ms: list[float]) -> Percentiles:
    if not times_ms:
        return Percentiles(p50_ms=None, p99_ms=None)
    p50, p99 = np.percentile(times_ms, (50, 99), method="inverted_cdf")
    return Percentiles(p50_ms=round(float(p50), 3), p99_ms=round(float(p99), 3))
