"""Test doubles of engines: the real engine, made slow, failing, hanging or drifting at chosen parts."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent
from edge.engine.cache import CachedEngine
from edge.engine.choice import OnProgress, open_engine, ort_engine_from_bundle
from edge.engine.ort import OrtEngine
from edge.engine.protocol import Engine, EngineError, EngineLostError, Outputs
from edge.engine.settings import EngineSettings


@dataclass
class Trouble:
    """Failures to simulate: the numbers of inferences, counted from 1 after the gate; `lost_at` over all engines."""

    slow_s: float = 0.0
    fails_at: tuple[int, ...] = ()
    lost_at: tuple[int, ...] = ()
    dies_at: tuple[int, ...] = ()
    hangs_at: tuple[int, ...] = ()
    no_number_at: tuple[int, ...] = ()
    drift: float = 0.0
    made: list[TroubledEngine] = field(default_factory=list)

    def open(self, bundle: BundleContent, settings: EngineSettings, *_: object, **__: object) -> Engine:
        """Open the bundle's engine with this trouble."""
        self.made.append(TroubledEngine(ort_engine_from_bundle(bundle, settings), self, len(bundle.golden().frames)))
        return self.made[-1]

    @property
    def inferences(self) -> int:
        """The number of inferences of all engines, without those of the golden gate."""
        return sum(max(engine.count, 0) for engine in self.made)


class TroubledEngine:
    """The real engine with trouble; `threads` are the threads that created, used and closed it."""

    def __init__(self, engine: Engine, trouble: Trouble, golden_frames: int) -> None:
        self._engine = engine
        self._trouble = trouble
        self.count = -golden_frames
        self.closed = False
        self.threads = {threading.current_thread().name}

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The real outputs, or the trouble."""
        self.count += 1
        self.threads.add(threading.current_thread().name)
        trouble = self._trouble
        if self.count > 0:
            time.sleep(trouble.slow_s)
        if self.count in trouble.fails_at:
            raise EngineError("the engine did not answer")
        if self.count > 0 and trouble.inferences in trouble.lost_at:
            raise EngineLostError("the accelerator is lost")
        if self.count in trouble.dies_at:
            raise MemoryError
        if self.count in trouble.hangs_at:
            time.sleep(3600)
        outputs = self._engine.infer(tiles_u8)
        if self.count in trouble.no_number_at:
            return replace(outputs, anomaly_score=np.full_like(outputs.anomaly_score, np.nan))
        return replace(outputs, anomaly_score=outputs.anomaly_score + np.float32(trouble.drift))

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Swap the real engine's."""
        self._engine.swap_bank(bank)

    def close(self) -> None:
        """Release the real engine."""
        self.closed = True
        self.threads.add(threading.current_thread().name)
        self._engine.close()


@dataclass
class PlanDouble:
    """A double of TensorRT's runtime: for a real plan it opens ONNX Runtime with the graph that the plan is built from.

    It shows which plan is opened when, by which thread, and the consequences of failures; nothing about the GPU.
    `problems`: for each precision, the errors of the first openings; `drifts`: how far the anomaly score drifts.
    """

    problems: dict[Precision, list[Exception]] = field(default_factory=dict)
    drifts: dict[Precision, float] = field(default_factory=dict)
    opened: list[Precision] = field(default_factory=list)
    made: list[TroubledEngine] = field(default_factory=list)

    def open_plans(self, built: CachedEngine, bundle: BundleContent, settings: EngineSettings) -> Engine:
        """Open ONNX Runtime in place of TensorRT's engine."""
        assert all(plan.entry.size_bytes > 10_000 for plan in built.plans)
        self.opened.append(settings.precision)
        if self.problems.get(settings.precision):
            raise self.problems[settings.precision].pop(0)
        engine = OrtEngine(bundle.graphs(settings.precision), bundle.bank(), threads=1)
        trouble = Trouble(drift=self.drifts.get(settings.precision, 0.0))
        self.made.append(TroubledEngine(engine, trouble, golden_frames=0))
        return self.made[-1]

    def open(
        self, bundle: BundleContent, settings: EngineSettings, cache_dir: Path, on_progress: OnProgress, **rest: Any
    ) -> Engine:
        """`open_engine` with this double in place of TensorRT's runtime."""
        return open_engine(bundle, settings, cache_dir, on_progress, open_plans=self.open_plans, **rest)
