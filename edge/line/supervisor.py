"""The main thread while the line runs: reports faults, feeds the watchdog, publishes status and metrics, stops.

It knows no worker by heart: whatever `Line.watched` calls a problem becomes a fault, and the state of a worker of
`Line.workers` may be a reason to stop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from enum import Enum

from edge.faults import FaultId
from edge.line.engine_keeper import Activity
from edge.line.line import Line
from edge.system.service_manager import ServiceNotifier, WatchdogFeeder
from edge.system.stop_signals import StopSignals
from edge.worker import Problems, Watched, WorkerState

START_STEP_S = 120.0
"""While the engine is made: the time that the service manager allows from one sign of progress to the next."""
RETRY_PAUSE_S = 60.0
"""Pause before the restart of a device without an engine: time to read why, and builds are not repeated at once."""

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

    def wait_for_engine(self, signals: StopSignals) -> Reason | None:
        """Report the progress of the engine until it is ready (None), or until the daemon must stop."""
        reported: Activity | None = None
        while self._reason_to_stop() is None:
            activity = self._line.inspector.activity
            if activity is None:
                self._line.publisher.set_activity(None)
                return None
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
        since_monotonic_s = time.monotonic()
        while not signals.wait(self._feeder.interval_s):
            self._feeder.feed()
            self._watch()
            self._report_status()
            self._line.metrics.log_retention_once(time.monotonic() - since_monotonic_s)
            reason = self._reason_to_stop()
            if reason is not None:
                return reason
        return Reason.SIGNAL

    def _reason_to_stop(self) -> Reason | None:
        """FAILURE if a worker has failed; the end of the replay once every part has its verdict."""
        failed = [worker.name for worker in self._line.workers if worker.state is WorkerState.FAILED]
        if failed:
            self._watch()  # what ended it, for the last status
            _logger.error("a thread cannot go on: %s", ", ".join(failed))
            return Reason.FAILURE
        return Reason.END_OF_REPLAY if self._line.inspector.state is WorkerState.ENDED else None

    def _report_activity(self, activity: Activity) -> None:
        share = "" if activity.progress is None else f" ({activity.progress:.0%})"
        self._notifier.extend(f"{activity.text}{share}", START_STEP_S)
        fraction = None if activity.progress is None else round(activity.progress, 2)
        self._line.publisher.set_activity(activity.text, fraction)

    def _watch(self) -> None:
        """Turn problems into faults, and publish metrics when they are due."""
        board = self._line.board
        for fault_id, problem in merged_problems(self._line.watched).items():
            if problem is None:
                board.end(fault_id)
            else:
                board.report(fault_id, problem)
        board.end_quiet()
        self._line.metrics.publish_when_due()

    def _report_status(self) -> None:
        faults = ", ".join(fault_id.value for fault_id in self._line.board.active()) or "none"
        status = f"{self._line.metrics.in_short()}; faults: {faults}"
        if status != self._status:
            self._notifier.status(status)
        self._status = status


def merged_problems(watched: Iterable[Watched]) -> Problems:
    """The problems of all; a fault that several can have is over when none of them has it."""
    texts: dict[FaultId, list[str]] = {}
    for one in watched:
        for fault_id, problem in one.problems().items():
            texts.setdefault(fault_id, []).extend([] if problem is None else [problem])
    return {fault_id: "; ".join(dict.fromkeys(told)) or None for fault_id, told in texts.items()}
