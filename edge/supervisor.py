"""What the main thread watches while the others work: faults, the watchdog, the status line, and when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

from edge.capture import Capture
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.frames import FrameStore
from edge.handover import HandOver
from edge.health import ServiceNotifier, WatchdogFeeder
from edge.inspector import Inspector
from edge.outbox import Outbox
from edge.publisher import Publisher
from edge.stop_signals import StopSignals

LINK_PATIENCE_S = 3.0
"""How long the broker may be away before it is a fault."""


class Reason(Enum):
    """Why the daemon stops."""

    SIGNAL = "a signal asked for it"
    END_OF_REPLAY = "the replay is over"
    FAILURE = "a thread failed"


@dataclass(frozen=True)
class Line:
    """Everything that runs between start and stop."""

    outbox: Outbox
    frames: FrameStore
    board: FaultBoard
    handover: HandOver
    capture: Capture
    inspector: Inspector
    publisher: Publisher


class Supervisor:
    """Watches one line for the main thread."""

    def __init__(self, line: Line, notifier: ServiceNotifier) -> None:
        self._line = line
        self._notifier = notifier
        self._feeder = WatchdogFeeder(notifier, line.inspector.heartbeat)
        self._status = ""
        self._linked_monotonic_s = time.monotonic()

    def run(self, signals: StopSignals) -> Reason:
        """Watch until it is time to stop."""
        line = self._line
        while not signals.wait(self._feeder.interval_s):
            self._feeder.feed()
            self._watch()
            self._tell_status()
            if line.inspector.failed:
                return Reason.FAILURE
            if line.capture.ended:
                line.handover.close()
                if not line.inspector.running:
                    return Reason.END_OF_REPLAY
            elif not line.capture.running:
                line.board.report(FaultId.THREAD_FAILED, "capture")
                return Reason.FAILURE
        return Reason.SIGNAL

    def _watch(self) -> None:
        """Turn what the writing and sending threads say of themselves into faults."""
        for fault_id, problem in (
            (FaultId.OUTBOX_FAILED, self._line.outbox.error),
            (FaultId.FRAMES_FAILED, self._line.frames.error),
            (FaultId.BROKER_UNREACHABLE, self._link_problem()),
        ):
            if problem is None:
                self._line.board.end(fault_id)
            else:
                self._line.board.report(fault_id, str(problem))
        self._line.board.end_quiet()

    def _link_problem(self) -> str | None:
        link, now_s = self._line.publisher.state, time.monotonic()
        if link.connected:
            self._linked_monotonic_s = now_s
        return link.detail if now_s - self._linked_monotonic_s > LINK_PATIENCE_S else None

    def _tell_status(self) -> None:
        parts = sum(self._line.inspector.verdicts.values())
        faults = ", ".join(fault_id.value for fault_id in self._line.board.active()) or "none"
        status = f"{parts} parts since the start, {self._line.outbox.backlog()} messages to send; faults: {faults}"
        if status != self._status:
            self._notifier.status(status)
        self._status = status
