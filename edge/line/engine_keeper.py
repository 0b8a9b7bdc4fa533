"""The engine of the inspect thread: opened and closed there, and opened again when the accelerator fails."""

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
"""If the accelerator fails this often within this time, the program ends and is restarted instead."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Activity:
    """What is being done until the engine is ready.

    `progress` is the share done, if known. `step` increases with every update, so that two activities with equal text
    still differ.
    """

    text: str
    progress: float | None = None
    step: int = 0


class EngineKeeper:
    """The engine of one bundle; itself an `Engine`. The inspect thread owns it; others may use `activity` and `cancel`.

    `beat` is called at every progress of opening or building an engine. If `lost` is true, the accelerator has failed
    and `renew` must be called.
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
        self._engine_opener = engine_opener
        self._beat = beat
        self._engine: Engine | None = None
        self._losses: deque[float] = deque(maxlen=MAX_LOSSES)
        self._cancelled = threading.Event()
        self.lost = False
        self.activity = Activity("waiting for the engine")

    def cancel(self) -> None:
        """Cancel a running build; any thread may call."""
        self._cancelled.set()

    def open(self) -> None:
        """Open or build the engine and check it with the golden frames.

        Raises:
            EngineUnavailableError: no engine of the bundle passes; the fault is reported.
            BuildCancelledError: `cancel` was called.
        """
        self._set_activity("opening the engine and checking it with the golden frames")
        try:
            chosen = choose_engine(
                self._bundle,
                self._settings,
                self._cache_dir,
                self._on_progress,
                stopping=self._cancelled.is_set,
                on_damage=self._on_damage,
                engine_opener=self._engine_opener,
            )
        except EngineUnavailableError as error:
            self._board.report(FaultId.ENGINE_UNAVAILABLE, str(error))
            raise
        self._engine, self.lost = chosen.engine, False
        self._report_choice(chosen)
        self._beat()

    def renew(self) -> None:
        """Close the lost engine and open it again, from the cache if possible; the golden frames are checked again.

        Raises:
            EngineLostError: it was lost too often.
            EngineUnavailableError: no engine of the bundle passes any more.
            BuildCancelledError: `cancel` was called.
        """
        self.close()
        self._losses.append(time.monotonic())
        if len(self._losses) == MAX_LOSSES and self._losses[-1] - self._losses[0] < LOSS_WINDOW_S:
            raise EngineLostError(f"the accelerator failed {MAX_LOSSES} times within {LOSS_WINDOW_S / 60:.0f} minutes")
        self.open()

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """See `Engine.infer`; sets `lost` if the accelerator fails."""
        try:
            return self._opened.infer(tiles_u8)
        except EngineLostError as error:
            self._lose(error)
            raise

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """See `Engine.swap_bank`; sets `lost` if the accelerator fails. An engine opened later has the bundle's bank.

        Raises:
            EngineLostError: the accelerator failed.
        """
        try:
            self._opened.swap_bank(bank)
        except EngineLostError as error:
            self._lose(error)
            raise

    def close(self) -> None:
        """Release the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    @property
    def _opened(self) -> Engine:
        if self._engine is None:
            raise EngineLostError("no engine is open")
        return self._engine

    def _lose(self, error: EngineLostError) -> None:
        self.lost = True
        self._board.report(FaultId.ENGINE_LOST, str(error))

    def _report_choice(self, chosen: ChosenEngine) -> None:
        kind = f"{self._settings.kind} {chosen.precision}"
        _logger.info("engine %s passes the golden gate: %s", kind, chosen.gate)
        if chosen.failed:
            self._board.report(FaultId.ENGINE_FALLBACK, f"{chosen.precision} is in use; {in_words(chosen.failed)}")
        else:
            self._board.end(FaultId.ENGINE_FALLBACK)

    def _on_progress(self, progress: BuildProgress) -> None:
        self._set_activity(f"building the engine, {progress.phase}", progress.fraction)

    def _on_damage(self, problem: str) -> None:
        self._board.report(FaultId.ENGINE_DAMAGED, problem)

    def _set_activity(self, text: str, progress: float | None = None) -> None:
        self.activity = Activity(text, progress, self.activity.step + 1)
        self._beat()
