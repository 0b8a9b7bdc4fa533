"""Builds the engines of a bundle on this device and keeps them in the cache; reports progress and can be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.cache import CachedEngine, EngineCache
from edge.engine.key import engine_key, gpu_identity
from edge.engine.protocol import StoredFile
from edge.engine.trt_library import TensorRT
from edge.errors import ProcunitError
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import BuiltEngine, build_engine

PROGRESS_INTERVAL_S = 0.5
"""How often progress is reported, also during one long step of the builder."""
STALLED_S = 600.0
"""A build without a finished step for this long counts as hung; a large node may take minutes on an Orin."""

OnProgress = Callable[[BuildProgress], None]
WaitForStop = Callable[[float], bool]
"""Waits at most this many seconds; returns True as soon as a stop is requested."""


@dataclass(frozen=True)
class BuildOutcome:
    """A bundle's engine in the cache; `was_cached` is True if nothing had to be built."""

    engine: CachedEngine
    was_cached: bool


def engine_from_bundle(
    bundle: BundleContent,
    precision: Precision,
    library: TensorRT,
    cache: EngineCache,
    on_progress: OnProgress,
    wait_for_stop: WaitForStop,
) -> BuildOutcome:
    """Build all graphs of one precision, or find them in the cache; call it from the main thread.

    Raises:
        ProcunitError: the bundle has no such graphs, a graph cannot be built here, or the builder hangs.
        BuildCancelledError: `wait_for_stop` returned True.
    """
    if precision not in bundle.precisions:
        raise ProcunitError(
            f"the bundle has no {precision} graphs, only {', '.join(bundle.precisions)}",
            where=str(bundle.path),
            remedy="Choose one of these, or export and bundle the run again",
        )
    key = engine_key(bundle, precision, library, gpu_identity())

    def wait_for_others(seconds: float) -> bool:
        on_progress(BuildProgress(phase="waiting for another build here", step=0, steps=1, fraction=0.0, seconds=0.0))
        return wait_for_stop(seconds)

    with cache.locked(wait_for_others):
        found = cache.find(key)
        if found is not None:
            return BuildOutcome(found, was_cached=True)
        timing, plans = cache.timing(key), []
        graphs = bundle.graphs(precision)
        for index, graph in enumerate(graphs):
            work = GraphBuild(graph, library, len(bundle.manifest.geometry.regions), timing)
            built = work.watch(partial(_report_overall, on_progress, index, len(graphs)), wait_for_stop)
            timing = built.timing
            plans.append(built.plan)
        cache.store_timing(key, timing)
        return BuildOutcome(cache.store(key, plans), was_cached=False)


class GraphBuild:
    """Builds one graph in a thread, because Python handles signals in the main thread and only when it is not busy."""

    def __init__(self, graph: StoredFile, library: TensorRT, tiles: int, timing: bytes) -> None:
        self._graph, self._library, self._tiles, self._timing = graph, library, tiles, timing
        self._tracker = BuildTracker()
        self._built: BuiltEngine | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def watch(self, on_progress: OnProgress, wait_for_stop: WaitForStop) -> BuiltEngine:
        """Start the build and report its progress until it ends."""
        started_s = time.monotonic()
        tracker = self._tracker
        self._thread.start()
        while self._thread.is_alive():
            if tracker.cancelled:
                self._thread.join(PROGRESS_INTERVAL_S)
            else:
                tracker.cancelled = self._stop_requested_within(PROGRESS_INTERVAL_S, wait_for_stop)
            seconds = time.monotonic() - started_s
            on_progress(
                BuildProgress(
                    phase=f"{self._graph.stem}: {tracker.phase}",
                    step=tracker.step,
                    steps=tracker.steps,
                    fraction=tracker.fraction,
                    seconds=round(seconds, 1),
                )
            )
            if time.monotonic() - tracker.last_progress_monotonic_s > STALLED_S:
                raise ProcunitError(
                    f"the builder has not finished a step for {STALLED_S:.0f} s, in phase {tracker.phase!r}",
                    where=str(self._graph),
                    remedy="Restart the device and build again; if it happens again, choose another precision",
                )
        if self._built is None:
            raise self._error or BuildCancelledError
        return self._built

    def _stop_requested_within(self, seconds: float, wait_for_stop: WaitForStop) -> bool:
        """Wait until a stop is requested (True), the build has ended or the time is up (False)."""
        until_s = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until_s:
            if wait_for_stop(0.02):
                return True
        return False

    def _run(self) -> None:
        try:
            self._built = build_engine(
                self._graph, self._library, tiles=self._tiles, timing=self._timing, tracker=self._tracker
            )
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            self._error = error


def _report_overall(on_progress: OnProgress, done: int, graphs: int, progress: BuildProgress) -> None:
    on_progress(progress.model_copy(update={"fraction": (done + progress.fraction) / graphs}))
