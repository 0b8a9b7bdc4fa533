"""Time: UTC for records, the monotonic clock for durations, and how far the system clock can be trusted.

Certificates and expiring commands depend on the system clock; ordering of results does not (they are numbered).
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import datetime, timezone

EARLIEST_CREDIBLE_S = datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp()
"""Unix time; a clock before this was never set (a board without a battery starts in 1970)."""

_TIMEX_BYTES = 512  # struct timex is 208 bytes on 64-bit Linux
_MAX_ERROR_OFFSET = 3 * ctypes.sizeof(ctypes.c_long)  # modes (padded), offset, freq, maxerror (adjtimex(2))
_NOT_SYNCHRONISED = 5


def utc_now() -> str:
    """The current UTC time in ISO 8601 with milliseconds, `2026-11-22T19:00:00.000Z`."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def elapsed_ms(started_ns: int) -> float:
    """Milliseconds since `started_ns`, a reading of `time.monotonic_ns`."""
    return (time.monotonic_ns() - started_ns) / 1e6


def unix_s_from_utc(text: str) -> float:
    """Unix time from a UTC time as `utc_now` writes it.

    Raises:
        ValueError: the text is no valid time.
    """
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc).timestamp()


def utc_from_unix_s(unix_s: float) -> str:
    """UTC in ISO 8601 with milliseconds from Unix time; the inverse of `unix_s_from_utc`."""
    text = datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


@dataclass(frozen=True)
class ClockState:
    """`max_error_ms` is the kernel's bound on the clock's error; None if no time service synchronises the clock."""

    max_error_ms: float | None


def clock_state() -> ClockState:
    """Ask the kernel (adjtimex(2), which changes nothing when no mode is given)."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state < 0 or state == _NOT_SYNCHRONISED:
        return ClockState(None)
    return ClockState(ctypes.c_long.from_buffer(timex, _MAX_ERROR_OFFSET).value / 1e3)
