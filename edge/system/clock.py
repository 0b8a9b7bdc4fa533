"""What the kernel knows of its clock's error: certificates and expiring commands depend on it."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import datetime, timezone

_TIMEX_BYTES = 512  # struct timex is 208 bytes on 64-bit Linux
_MAX_ERROR_OFFSET = 3 * ctypes.sizeof(ctypes.c_long)  # modes (padded), offset, freq, maxerror (adjtimex(2))
_NOT_SYNCHRONISED = 5


@dataclass(frozen=True)
class ClockState:
    """`max_error_ms` is the kernel's bound of the clock's error; None where no time service keeps it."""

    max_error_ms: float | None


def clock_state() -> ClockState:
    """Ask the kernel (adjtimex(2), which changes nothing when no mode is given)."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state < 0 or state == _NOT_SYNCHRONISED:
        return ClockState(None)
    return ClockState(ctypes.c_long.from_buffer(timex, _MAX_ERROR_OFFSET).value / 1e3)


def unix_s_from_utc(text: str) -> float:
    """Seconds since 1970 of a time as it is on the wire, `2026-11-22T19:00:00.000Z`.

    Raises:
        ValueError: there is no such time.
    """
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc).timestamp()


def utc_from_unix_s(unix_s: float) -> str:
    """The other way round, in milliseconds."""
    text = datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


EARLIEST_CREDIBLE_S = datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp()
"""A clock before this was never set (a board without a battery starts in 1970)."""


def utc_now() -> str:
    """Now in UTC, ISO 8601 with milliseconds; for records, never for durations."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def elapsed_ms(started_ns: int) -> float:
    """Milliseconds since a reading of `time.monotonic_ns`."""
    return (time.monotonic_ns() - started_ns) / 1e6
