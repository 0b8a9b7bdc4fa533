"""Test doubles of engines: the real one that is slow, fails, hangs or gives no numbers at the parts it is told."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edge.bundle import BundleContent
from edge.engine import Engine, EngineError, EngineLostError, Outputs
from edge.engine_choice import ort_engine_from_bundle
from edge.engine_settings import EngineSettings


@dataclass
class Trouble:
    """What goes wrong at which inferences, counted from 1 after the golden gate; `lost_at` over all engines made."""

    slow_s: float = 0.0
    fails_at: tuple[int, ...] = ()
    lost_at: tuple[int, ...] = ()
    dies_at: tuple[int, ...] = ()
    hangs_at: tuple[int, ...] = ()
    no_number_at: tuple[int, ...] = ()
    drift: float = 0.0
    made: list[TroubledEngine] = field(default_factory=list)

    def open(self, bundle: BundleContent, settings: EngineSettings, *_: object, **__: object) -> Engine:
        """The bundle's engine with this trouble."""
        self.made.append(TroubledEngine(ort_engine_from_bundle(bundle, settings), self, len(bundle.golden().frames)))
        return self.made[-1]

    @property
    def judged(self) -> int:
        """The inferences of all engines that were made, the golden gates' not counted."""
        return sum(max(engine.count, 0) for engine in self.made)


class TroubledEngine:
    """The real engine with trouble; `threads` are those that made it, used it and closed it."""

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
        if self.count > 0 and trouble.judged in trouble.lost_at:
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
