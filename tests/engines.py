"""Test doubles of engines: the real one that is slow, fails, hangs or gives no numbers at the parts it is told."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.config import EngineSettings
from edge.engine import Engine, EngineError, Outputs
from edge.judge import ort_engine_from_bundle


@dataclass
class Trouble:
    """What goes wrong at which inferences, counted from 1 after the golden gate."""

    slow_s: float = 0.0
    fails_at: tuple[int, ...] = ()
    dies_at: tuple[int, ...] = ()
    hangs_at: tuple[int, ...] = ()
    no_number_at: tuple[int, ...] = ()
    drift: float = 0.0

    def build(self, bundle: Bundle, settings: EngineSettings) -> Engine:
        """The bundle's engine with this trouble."""
        return TroubledEngine(ort_engine_from_bundle(bundle, settings), self, len(bundle.golden().frames))


class TroubledEngine:
    """The real engine with trouble."""

    def __init__(self, engine: Engine, trouble: Trouble, golden_frames: int) -> None:
        self._engine = engine
        self._trouble = trouble
        self._count = -golden_frames

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The real outputs, or the trouble."""
        self._count += 1
        trouble = self._trouble
        if self._count > 0:
            time.sleep(trouble.slow_s)
        if self._count in trouble.fails_at:
            raise EngineError("the accelerator is lost")
        if self._count in trouble.dies_at:
            raise MemoryError
        if self._count in trouble.hangs_at:
            time.sleep(3600)
        outputs = self._engine.infer(tiles_u8)
        if self._count in trouble.no_number_at:
            return replace(outputs, anomaly_score=np.full_like(outputs.anomaly_score, np.nan))
        return replace(outputs, anomaly_score=outputs.anomaly_score + np.float32(trouble.drift))

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Swap the real engine's."""
        self._engine.swap_bank(bank)

    def close(self) -> None:
        """Release the real engine."""
        self._engine.close()
