"""TensorRT's progress as one number that only grows, and the way to cancel a build (IProgressMonitor)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import ModuleType


@dataclass
class _Phase:
    """A phase under way; it began within the current step of its parent, of which it takes `share`."""

    parent: str | None
    steps: int
    share: float = 1.0
    done: int = 0
    left_of_step: float = 1.0
    """What later phases may still take of the current step."""


class BuildTracker:
    """Where a build is; the builder's threads report, any thread may ask.

    A step of a phase may hold phases of its own, and the builder does not say how many will follow. Each takes half of
    what its parent's step still has, so that the share of work done never goes back. Whoever sets `cancelled` asks the
    builder to end: it does at the next step. `moved_monotonic_s` tells when it last reported.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self.phase, self.step, self.steps = "reading the graph", 0, 1
        self.moved_monotonic_s = time.monotonic()

    @property
    def fraction(self) -> float:
        """The share of the work that is done, 0 to 1; it never goes back."""
        return self._fraction

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins within another."""
        with self._lock:
            phase = _Phase(parent if parent in self._phases else None, max(steps, 1))
            if phase.parent is not None:
                within = self._phases[phase.parent]
                within.left_of_step /= 2
                phase.share = within.left_of_step
            self._phases[name] = phase
            self._tell(name)

    def complete(self, name: str, step: int) -> bool:
        """A step of a phase is done; whether the builder shall go on."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done, phase.left_of_step = min(step + 1, phase.steps), 1.0
                self._tell(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = phase.steps
                self._tell(name)
                del self._phases[name]

    def _tell(self, name: str) -> None:
        phase = self._phases[name]
        self.phase, self.step, self.steps = name, phase.done, phase.steps
        self._fraction = max(self._fraction, min(self._reached(phase, 0.0), 1.0))
        self.moved_monotonic_s = time.monotonic()

    def _reached(self, phase: _Phase, within_step: float) -> float:
        """The share of all work that is done when `within_step` of the current step of a phase is."""
        own = min((phase.done + within_step) / phase.steps, 1.0)
        parent = self._phases.get(phase.parent) if phase.parent is not None else None
        if parent is None:
            return own
        before = 1.0 - 2 * phase.share
        return self._reached(parent, before + own * phase.share)


def monitor_from_tracker(trt: ModuleType, tracker: BuildTracker) -> object:
    """The library's own monitor (IProgressMonitor) that reports to a tracker; keep it as long as the build runs."""
    methods = {
        "phase_start": lambda _self, name, parent, steps: tracker.start(name, parent, steps),
        "step_complete": lambda _self, name, step: tracker.complete(name, step),
        "phase_finish": lambda _self, name: tracker.finish(name),
    }
    monitor: object = type("BuildMonitor", (trt.IProgressMonitor,), methods)()
    return monitor
