"""The active faults of the device: logs when a fault begins and ends, and publishes an event when it begins."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from edge.contract.payloads import bytes_from_payload, event_from_fault
from edge.faults import FaultId, Severity
from edge.outbox.outbox import Outbox
from edge.outbox.writer import OutboxEndedError
from edge.system.clock import utc_now

QUIET_S = 10.0
"""A fault that concerns single parts ends when it has not been reported for this long."""

_LEVELS: dict[Severity, int] = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_logger = logging.getLogger(__name__)


def put_event(outbox: Outbox, device: str, fault_id: FaultId, detail: str) -> None:
    """Store the event for a fault in the outbox; if nothing can be stored any more, the log and the status say it."""
    event = event_from_fault(fault_id, detail, device=device, epoch=outbox.epoch, created_at_utc=utc_now())
    with suppress(OutboxEndedError):
        outbox.put_event(bytes_from_payload(event))


@dataclass
class _Active:
    detail: str
    seen_monotonic_s: float


class FaultBoard:
    """Active faults of one device; any thread may call.

    Reporting a fault that is already active only renews it: no second event, no second log line.
    """

    def __init__(self, outbox: Outbox, device: str) -> None:
        self._outbox = outbox
        self._device = device
        self._lock = threading.Lock()
        self._active: dict[FaultId, _Active] = {}

    def report(self, fault_id: FaultId, detail: str) -> None:
        """Begin or renew a fault; `detail` completes the fixed text of the fault table."""
        with self._lock:
            already_active = fault_id in self._active
            self._active[fault_id] = _Active(detail, time.monotonic())
        if already_active:
            return
        fault = fault_id.fault
        _logger.log(_LEVELS[fault.severity], "%s: %s (%s) %s", fault_id.value, fault.text, detail, fault.action)
        put_event(self._outbox, self._device, fault_id, detail)

    def end(self, fault_id: FaultId) -> None:
        """End a fault; does nothing if it is not active."""
        with self._lock:
            ended = self._active.pop(fault_id, None)
        if ended is not None:
            _logger.info("%s: over", fault_id.value)

    def end_quiet(self) -> None:
        """End the faults that do not last and were not reported for `QUIET_S`."""
        before_monotonic_s = time.monotonic() - QUIET_S
        with self._lock:
            quiet = [
                fault_id
                for fault_id, active in self._active.items()
                if not fault_id.fault.lasting and active.seen_monotonic_s < before_monotonic_s
            ]
        for fault_id in quiet:
            self.end(fault_id)

    def active(self) -> tuple[FaultId, ...]:
        """The active faults, the oldest first."""
        with self._lock:
            return tuple(self._active)

    def active_problems(self) -> tuple[FaultId, ...]:
        """The active faults without those of severity `info`, the oldest first."""
        return tuple(fault_id for fault_id in self.active() if fault_id.fault.severity != "info")
