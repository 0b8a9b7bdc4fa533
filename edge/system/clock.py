"""What the kernel knows of its clock's error: certificates and expiring commands depend on it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

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
