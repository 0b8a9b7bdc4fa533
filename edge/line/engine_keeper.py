"""The engine of the inspect thread: made there and closed there, and made anew when the accelerator fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle.reader import Bundle
from edge.engine.build_progress import BuildProgress
from edge.engine.choice import ChosenEngine, EngineUnavailableError, OpenEngine, choose_engine, in_words
from edge.engine.protocol import Engine, EngineLostError, Outputs
from edge.engine.settings import EngineSettings
from edge.fault_board import FaultBoard
from edge.faults import FaultId

MAX_LOSSES, LOSS_WINDOW_S = 3, 600.0
"""An accelerator that fails this often within this time is left to a restart of the whole program."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Activity:
    """What the keeper does before there is an engine: `progress` is the share done, if known; `step` changes always."""

    text: str
    progress: float | None = None
    step: int = 0


class EngineKeeper:
    """One bundle's engine, itself an `Engine`; but for `activity` and `cancel` it belongs to the inspect thread.

    `beat` is called whenever making an engine has made progress. `lost` says that the accelerator failed: `renew` it.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: EngineSettings,
        cache_dir: Path,
        board: FaultBoard,
        engine_opener: OpenEngine,
        beat: Callable[[], None],
    ) -> None:
        self._bundle = bundle
        self._settings = settings
        self._cache_dir = cache_dir
        self._board = board
        self._open_one = engine_opener
        self._beat = beat
        self._engine: Engine | None = None
        self._bank: NDArray[np.float32] | None = None
        self._losses: deque[float] = deque(maxlen=MAX_LOSSES)
        self._cancelled = threading.Event()
        self.lost = False
        self.activity = Activity("waiting for the engine")

    def cancel(self) -> None:
        """End a build that is under way; any thread may ask."""
        self._cancelled.set()

    def open(self) -> None:
        """Make the engine, through the golden gate.

        Raises:
            EngineUnavailableError: no engine of the bundle may judge; the fault is reported.
            BuildCancelledError: it was cancelled.
        """
        self._tell("opening the engine and showing it the golden frames")
        try:
            chosen = choose_engine(
                self._bundle,
                self._settings,
                self._cache_dir,
                self._on_progress,
                stopping=self._cancelled.is_set,
                on_damage=self._on_damage,
                engine_opener=self._open_one,
            )
        except EngineUnavailableError as error:
            self._board.report(FaultId.ENGINE_UNAVAILABLE, str(error))
            raise
        self._engine, self.lost = chosen.engine, False
        self._tell_choice(chosen)
        if self._bank is not None:
            chosen.engine.swap_bank(self._bank)
        self._beat()

    def renew(self) -> None:
        """Close the lost engine and make it anew, from the cache if it is there; the golden gate comes first again.

        Raises:
            EngineLostError: it was lost too often.
            EngineUnavailableError: no engine can be had any more.
            BuildCancelledError: it was cancelled.
        """
        self.close()
        self._losses.append(time.monotonic())
        if len(self._losses) == MAX_LOSSES and self._losses[-1] - self._losses[0] < LOSS_WINDOW_S:
            raise EngineLostError(f"the accelerator failed {MAX_LOSSES} times within {LOSS_WINDOW_S / 60:.0f} minutes")
        self.open()

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C]; see `Engine`."""
        try:
            return self._opened.infer(tiles_u8)
        except EngineLostError as error:
            self._lose(error)
            raise

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Search in another bank [M, D + 1], also after the engine was made anew; see `Engine`.

        An engine that is lost on the way is made anew with it.
        """
        try:
            self._opened.swap_bank(bank)
        except EngineLostError as error:
            self._lose(error)
        self._bank = bank

    def close(self) -> None:
        """Release the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    @property
    def _opened(self) -> Engine:
        if self._engine is None:
            raise EngineLostError("there is no engine")
        return self._engine

    def _lose(self, error: EngineLostError) -> None:
        self.lost = True
        self._board.report(FaultId.ENGINE_LOST, str(error))

    def _tell_choice(self, chosen: ChosenEngine) -> None:
        kind = f"{self._settings.kind} {chosen.precision}"
        _logger.info("engine %s passes the golden gate: %s", kind, chosen.gate)
        if chosen.failed:
            self._board.report(FaultId.ENGINE_FALLBACK, f"{chosen.precision} judges; {in_words(chosen.failed)}")
        else:
            self._board.end(FaultId.ENGINE_FALLBACK)

    def _on_progress(self, progress: BuildProgress) -> None:
        self._tell(f"building the engine, {progress.phase}", progress.fraction)

    def _on_damage(self, problem: str) -> None:
        self._board.report(FaultId.ENGINE_DAMAGED, problem)

    def _tell(self, text: str, progress: float | None = None) -> None:
        self.activity = Activity(text, progress, self.activity.step + 1)
        self._beat()
