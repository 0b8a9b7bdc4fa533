"""The main thread while the line runs: reports faults, feeds the watchdog, publishes status and metrics, stops."""

from __future__ import annotations

import logging
import time
from enum import Enum

from edge.contract.payloads import bytes_from_payload
from edge.faults import FaultId
from edge.line.engine_keeper import Activity
from edge.line.line import Line
from edge.outbox.disk_space import retention_s
from edge.system.service_manager import ServiceNotifier, WatchdogFeeder
from edge.system.stop_signals import StopSignals

START_STEP_S = 120.0
"""While the engine is made: the time that the service manager allows from one sign of progress to the next."""
RETRY_PAUSE_S = 60.0
"""Pause before the restart of a device without an engine: time to read why, and builds are not repeated at once."""

METRICS_INTERVAL_S = 10.0
RATE_KNOWN_S = 60.0
"""After this long the rate of the line is known, and thus how long results are kept."""

_START_POLL_S = 0.1
_logger = logging.getLogger(__name__)


class Reason(Enum):
    """The reason why the daemon stops."""

    SIGNAL = "a signal asked for it"
    END_OF_REPLAY = "the replay is over"
    FAILURE = "a thread failed"


class Supervisor:
    """Supervises one line; the main thread calls."""

    def __init__(self, line: Line, notifier: ServiceNotifier) -> None:
        self._line = line
        self._notifier = notifier
        self._feeder = WatchdogFeeder(notifier, line.inspector.heartbeat)
        self._status = ""
        self._metrics_due_s = time.monotonic()
        self._running_since_s: float | None = None
        self._frames_dropped = 0

    def wait_for_engine(self, signals: StopSignals) -> Reason | None:
        """Report the progress of the engine until it is ready (None), or until the daemon must stop."""
        reported: Activity | None = None
        inspector = self._line.inspector
        while inspector.running:
            if inspector.ready:
                self._line.publisher.set_activity(None)
                return None
            activity = inspector.keeper.activity
            if activity != reported:
                self._report_activity(activity)
                reported = activity
            self._watch()
            if signals.wait(_START_POLL_S):
                return Reason.SIGNAL
        return Reason.FAILURE

    def wait_before_retry(self, signals: StopSignals, problem: str) -> None:
        """Without an engine: report why, and wait if a service manager would restart the program at once."""
        self._line.publisher.set_activity(f"cannot inspect: {problem}")
        if self._notifier.managed:
            self._notifier.extend(f"cannot inspect, next try in {RETRY_PAUSE_S:.0f} s: {problem}", 2 * RETRY_PAUSE_S)
            signals.wait(RETRY_PAUSE_S)

    def run(self, signals: StopSignals) -> Reason:
        """Supervise until the daemon must stop."""
        line = self._line
        self._running_since_s = time.monotonic()
        while not signals.wait(self._feeder.interval_s):
            self._feeder.feed()
            self._watch()
            self._report_status()
            self._log_retention_once()
            if line.inspector.failed or line.outbox.ended:
                self._watch()  # what ended it, for the last status
                return Reason.FAILURE
            if line.capture.ended:
                line.trigger_queue.close()
                if not line.inspector.running:  # it may have failed since it was asked above
                    return Reason.FAILURE if line.inspector.failed else Reason.END_OF_REPLAY
            elif not line.capture.running:
                line.board.report(FaultId.THREAD_FAILED, f"capture: {line.capture.problem}")
                return Reason.FAILURE
        return Reason.SIGNAL

    def _report_activity(self, activity: Activity) -> None:
        share = "" if activity.progress is None else f" ({activity.progress:.0%})"
        self._notifier.extend(f"{activity.text}{share}", START_STEP_S)
        fraction = None if activity.progress is None else round(activity.progress, 2)
        self._line.publisher.set_activity(activity.text, fraction)

    def _watch(self) -> None:
        """Turn the states of the other threads into faults, and publish metrics when they are due."""
        bank_watch = self._line.bank_watch
        if bank_watch is not None:
            bank_watch.look()
        for fault_id, problem in (
            (FaultId.OUTBOX_FAILED, self._line.outbox.error),
            (FaultId.FRAMES_FAILED, self._line.frames.error),
            (FaultId.DISK_LOW, self._line.outbox.shortage),
            *self._line.publisher.problems().items(),
            *self._line.commands.problems().items(),
            (FaultId.BANK_REFUSED, bank_watch and bank_watch.problem),
            (FaultId.DISARMED, None if self._line.rules_in_force.rules.armed else "until the command `arm`"),
        ):
            if problem is None:
                self._line.board.end(fault_id)
            else:
                self._line.board.report(fault_id, str(problem))
        dropped = self._line.frames.dropped
        if dropped != self._frames_dropped:
            self._frames_dropped = dropped
            self._line.board.report(FaultId.FRAMES_DROPPED, f"{dropped} since the start")
        self._line.board.end_quiet()
        now_s = time.monotonic()
        if now_s >= self._metrics_due_s:
            self._metrics_due_s = now_s + METRICS_INTERVAL_S
            self._line.publisher.offer_metrics(bytes_from_payload(self._line.metrics.read()))

    def _log_retention_once(self) -> None:
        """Log once for how long results are kept at the rate of this line."""
        parts = sum(self._line.inspector.verdicts.values())
        if self._running_since_s is None or not parts:
            return
        running_s = time.monotonic() - self._running_since_s
        if running_s >= RATE_KNOWN_S:
            kept_s = retention_s(parts / running_s, self._line.inspector.result_bytes)
            rate = f"{parts / running_s:.2g} parts per second"
            _logger.info("at %s, acknowledged results are kept for %.1f days for a replay", rate, kept_s / 86_400)
            self._running_since_s = None

    def _report_status(self) -> None:
        parts = sum(self._line.inspector.verdicts.values())
        faults = ", ".join(fault_id.value for fault_id in self._line.board.active()) or "none"
        status = f"{parts} parts since the start, {self._line.outbox.backlog()} messages to send; faults: {faults}"
        if status != self._status:
            self._notifier.status(status)
        self._status = status
