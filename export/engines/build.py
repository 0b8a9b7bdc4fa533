"""The engines of a bundle's graphs, built on this device and kept in its cache, with progress and a way to cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.cache import CachedEngine, EngineCache
from edge.engine.key import engine_key, gpu_identity
from edge.engine.trt_library import TensorRT
from edge.errors import ProcunitError
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import BuiltEngine, build_engine

TELL_S = 0.5
"""How often progress is told, also while the builder takes long over one step."""
STALLED_S = 600.0
"""A builder that finishes no step for this long is stuck; a large node may take an Orin minutes."""

Tell = Callable[[BuildProgress], None]
Wait = Callable[[float], bool]
"""Waits for so many seconds at most; True as soon as the build shall end."""


@dataclass(frozen=True)
class KeptEngine:
    """A bundle's engine in the cache; `was_cached` says that nothing had to be built."""

    engine: CachedEngine
    was_cached: bool


def engine_from_bundle(
    bundle: BundleContent, precision: Precision, library: TensorRT, cache: EngineCache, tell: Tell, wait: Wait
) -> KeptEngine:
    """Build all graphs of one precision, or find them built; call it from the main thread.

    Raises:
        ProcunitError: the bundle has no such graphs, a graph cannot be built here, or the builder is stuck.
        BuildCancelledError: `wait` asked for the end.
    """
    if precision not in bundle.precisions:
        raise ProcunitError(
            f"the bundle has no {precision} graphs, only {', '.join(bundle.precisions)}",
            where=str(bundle.path),
            remedy="Choose one of these, or export and bundle the run again",
        )
    key = engine_key(bundle, precision, library, gpu_identity())

    def wait_for_others(seconds: float) -> bool:
        tell(BuildProgress(phase="waiting for another build here", step=0, steps=1, fraction=0.0, seconds=0.0))
        return wait(seconds)

    with cache.locked(wait_for_others):
        found = cache.find(key)
        if found is not None:
            return KeptEngine(found, was_cached=True)
        timing, plans = cache.timing(key), []
        graphs = bundle.graphs(precision)
        for index, graph in enumerate(graphs):
            work = GraphBuild(graph, library, len(bundle.manifest.geometry.regions), timing)
            built = work.watch(partial(_tell_of_all, tell, index, len(graphs)), wait)
            timing = built.timing
            plans.append(built.plan)
        cache.store_timing(key, timing)
        return KeptEngine(cache.store(key, plans), was_cached=False)


class GraphBuild:
    """One graph's build, in a thread of its own: signals reach the main thread alone, and only when it is free."""

    def __init__(self, graph: Path, library: TensorRT, tiles: int, timing: bytes) -> None:
        self._graph, self._library, self._tiles, self._timing = graph, library, tiles, timing
        self._tracker = BuildTracker()
        self._built: BuiltEngine | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def watch(self, tell: Tell, wait: Wait) -> BuiltEngine:
        """Start it and tell of it until it ends."""
        started_s = time.monotonic()
        tracker = self._tracker
        self._thread.start()
        while self._thread.is_alive():
            if tracker.cancelled:
                self._thread.join(TELL_S)
            else:
                tracker.cancelled = self._ended_within(TELL_S, wait)
            seconds = time.monotonic() - started_s
            tell(
                BuildProgress(
                    phase=f"{self._graph.stem}: {tracker.phase}",
                    step=tracker.step,
                    steps=tracker.steps,
                    fraction=tracker.fraction,
                    seconds=round(seconds, 1),
                )
            )
            if time.monotonic() - tracker.moved_monotonic_s > STALLED_S:
                raise ProcunitError(
                    f"the builder has finished no step for {STALLED_S:.0f} s, within {tracker.phase!r}",
                    where=str(self._graph),
                    remedy="Restart the device and build again; choose another precision if it repeats",
                )
        if self._built is None:
            raise self._error or BuildCancelledError
        return self._built

    def _ended_within(self, seconds: float, wait: Wait) -> bool:
        """Whether the build shall end; returns early when it did."""
        until_s = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until_s:
            if wait(0.02):
                return True
        return False

    def _run(self) -> None:
        try:
            self._built = build_engine(
                self._graph, self._library, tiles=self._tiles, timing=self._timing, tracker=self._tracker
            )
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            self._error = error


def _tell_of_all(tell: Tell, done: int, graphs: int, progress: BuildProgress) -> None:
    tell(progress.model_copy(update={"fraction": (done + progress.fraction) / graphs}))
