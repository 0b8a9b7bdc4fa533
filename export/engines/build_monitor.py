"""TensorRT's build progress as one number that only grows, and cancelling a build (IProgressMonitor)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import ModuleType


@dataclass
class _Phase:
    """A running phase; it began in the current step of its parent and takes `share` of that step."""

    parent: str | None
    steps: int
    share: float = 1.0
    done: int = 0
    step_remaining: float = 1.0
    """Share of the current step that is left for later phases."""


class BuildTracker:
    """The progress of a build: updated by the builder's threads, readable from any thread.

    A step of a phase may contain phases, and the builder does not announce how many. Each takes half of what is left of
    its parent's step, so that the fraction never decreases. Set `cancelled` to make the builder stop at its next step.
    `last_progress_monotonic_s` is the time of the last report.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self.phase, self.step, self.steps = "reading the graph", 0, 1
        self.last_progress_monotonic_s = time.monotonic()

    @property
    def fraction(self) -> float:
        """The share of the work that is done, 0 to 1; it never decreases."""
        return self._fraction

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins inside its parent."""
        with self._lock:
            phase = _Phase(parent if parent in self._phases else None, max(steps, 1))
            if phase.parent is not None:
                within = self._phases[phase.parent]
                within.step_remaining /= 2
                phase.share = within.step_remaining
            self._phases[name] = phase
            self._update(name)

    def complete(self, name: str, step: int) -> bool:
        """A step of a phase is done; returns whether the builder should continue."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done, phase.step_remaining = min(step + 1, phase.steps), 1.0
                self._update(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = phase.steps
                self._update(name)
                del self._phases[name]

    def _update(self, name: str) -> None:
        phase = self._phases[name]
        self.phase, self.step, self.steps = name, phase.done, phase.steps
        self._fraction = max(self._fraction, min(self._reached(phase, 0.0), 1.0))
        self.last_progress_monotonic_s = time.monotonic()

    def _reached(self, phase: _Phase, within_step: float) -> float:
        """The share of all work that is done if `within_step` of the phase's current step is done."""
        own = min((phase.done + within_step) / phase.steps, 1.0)
        parent = self._phases.get(phase.parent) if phase.parent is not None else None
        if parent is None:
            return own
        before = 1.0 - 2 * phase.share
        return self._reached(parent, before + own * phase.share)


def monitor_from_tracker(trt: ModuleType, tracker: BuildTracker) -> object:
    """An IProgressMonitor of the library that reports to a tracker; keep a reference while the build runs."""
    methods = {
        "phase_start": lambda _self, name, parent, steps: tracker.start(name, parent, steps),
        "step_complete": lambda _self, name, step: tracker.complete(name, step),
        "phase_finish": lambda _self, name: tracker.finish(name),
    }
    monitor: object = type("BuildMonitor", (trt.IProgressMonitor,), methods)()
    return monitor
