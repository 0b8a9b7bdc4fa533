"""Which faults are active: every beginning and end is one line of the log, every beginning an event on the wire."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from edge.contract.payloads import bytes_from_payload, event_from_fault
from edge.faults import FAULTS, FaultId, Severity
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now

QUIET_S = 10.0
"""A fault of single parts is over when this long no part has shown it."""

_LASTING = frozenset(
    {
        FaultId.CAMERA_FAILED,
        FaultId.ENGINE_FALLBACK,
        FaultId.ENGINE_UNAVAILABLE,
        FaultId.OUTBOX_FAILED,
        FaultId.FRAMES_FAILED,
        FaultId.BROKER_UNREACHABLE,
        FaultId.DISARMED,
        FaultId.DISK_LOW,
    }
)
_LEVELS: dict[Severity, int] = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_logger = logging.getLogger(__name__)


def put_event(outbox: Outbox, device: str, fault_id: FaultId, detail: str) -> None:
    """Store the event that tells of a fault."""
    event = event_from_fault(fault_id, detail, device=device, epoch=outbox.epoch, created_at_utc=utc_now())
    outbox.put_event(bytes_from_payload(event))


@dataclass
class _Active:
    detail: str
    seen_monotonic_s: float


class FaultBoard:
    """Active faults of one device; any thread may report.

    A fault that is reported again while it is active makes no further event.
    """

    def __init__(self, outbox: Outbox, device: str) -> None:
        self._outbox = outbox
        self._device = device
        self._lock = threading.Lock()
        self._active: dict[FaultId, _Active] = {}

    def report(self, fault_id: FaultId, detail: str) -> None:
        """The fault is there; `detail` is what the table of faults cannot know."""
        with self._lock:
            known = fault_id in self._active
            self._active[fault_id] = _Active(detail, time.monotonic())
        if known:
            return
        fault = FAULTS[fault_id]
        _logger.log(_LEVELS[fault.severity], "%s: %s (%s) %s", fault_id.value, fault.text, detail, fault.action)
        put_event(self._outbox, self._device, fault_id, detail)

    def end(self, fault_id: FaultId) -> None:
        """The fault is over, if it was there."""
        with self._lock:
            ended = self._active.pop(fault_id, None)
        if ended is not None:
            _logger.info("%s: over", fault_id.value)

    def end_quiet(self) -> None:
        """End the faults of single parts that nobody has reported for a while."""
        before_monotonic_s = time.monotonic() - QUIET_S
        with self._lock:
            quiet = [
                fault_id
                for fault_id, active in self._active.items()
                if fault_id not in _LASTING and active.seen_monotonic_s < before_monotonic_s
            ]
        for fault_id in quiet:
            self.end(fault_id)

    def active(self) -> tuple[FaultId, ...]:
        """The faults that are there now, the oldest first."""
        with self._lock:
            return tuple(self._active)
