"""Choose the engine: the wanted precision if it can be opened and passes the golden gate, else the next best.

Everything here runs in the thread that will use the engine, because that thread owns the GPU's context.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import PRECISIONS, Precision
from edge.bundle.reader import BundleContent
from edge.engine.build_child import EngineBuild, build_in_child
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.cache import CachedEngine, EngineCache
from edge.engine.golden_gate import GateResult, check_golden
from edge.engine.key import EngineKey, engine_key, gpu_identity
from edge.engine.protocol import Engine, EngineError, Interruptible, Outputs, UnfitPlanError
from edge.engine.settings import EngineSettings
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError

_logger = logging.getLogger(__name__)

OnProgress = Callable[[BuildProgress], None]
OpenPlans = Callable[[CachedEngine, BundleContent, EngineSettings], Engine]


class OpenEngine(Protocol):
    """Opens the engine of one precision; see `open_engine`."""

    def __call__(
        self,
        bundle: BundleContent,
        settings: EngineSettings,
        cache_dir: Path,
        on_progress: OnProgress,
        *,
        stopping: Callable[[], bool],
        on_damage: Callable[[str], None],
    ) -> Engine:
        """The engine of `settings.precision`."""
        ...


@dataclass(frozen=True)
class FailedPrecision:
    """A precision whose engine cannot be used, and why."""

    precision: Precision
    problem: str


@dataclass(frozen=True)
class ChosenEngine:
    """An engine that passed the golden gate, and the precisions that failed before it."""

    engine: Engine
    precision: Precision
    gate: GateResult
    failed: tuple[FailedPrecision, ...]


class EngineUnavailableError(ProcunitError):
    """No engine of the bundle can be used; the text gives the reason for each precision."""

    def __init__(self, bundle: BundleContent, failed: tuple[FailedPrecision, ...]) -> None:
        super().__init__(
            f"no engine passed the golden frames ({in_words(failed)})",
            where=str(bundle.path),
            remedy="Parts are not inspected. If this does not go away, go back to the previous bundle",
        )


def choose_engine(
    bundle: BundleContent,
    settings: EngineSettings,
    cache_dir: Path,
    on_progress: OnProgress,
    *,
    stopping: Callable[[], bool],
    on_damage: Callable[[str], None],
    engine_opener: OpenEngine,
) -> ChosenEngine:
    """The first engine that can be opened and passes the golden gate.

    Order: the wanted precision, then slower ones, then faster ones if they are in the cache.

    Raises:
        EngineUnavailableError: there is none.
        BuildCancelledError: `stopping` became true.
    """
    failed: list[FailedPrecision] = []
    if settings.kind != "ort" and settings.precision not in bundle.precisions:
        failed.append(FailedPrecision(settings.precision, "the bundle has no such graph"))
    for attempt in _settings_in_order(bundle, settings, cache_dir):
        if stopping():
            raise BuildCancelledError
        try:
            engine = engine_opener(bundle, attempt, cache_dir, on_progress, stopping=stopping, on_damage=on_damage)
            gate = _gate_result(bundle, engine, stopping)
        except (ProcunitError, EngineError) as error:
            failed.append(FailedPrecision(attempt.precision, str(error)))
            continue
        if gate.passed:
            return ChosenEngine(engine, attempt.precision, gate, tuple(failed))
        engine.close()
        failed.append(FailedPrecision(attempt.precision, f"its results differ from the bundle's reference: {gate}"))
    raise EngineUnavailableError(bundle, tuple(failed))


def open_engine(
    bundle: BundleContent,
    settings: EngineSettings,
    cache_dir: Path,
    on_progress: OnProgress,
    *,
    stopping: Callable[[], bool] = lambda: False,
    on_damage: Callable[[str], None] = _logger.warning,
    open_plans: OpenPlans | None = None,
) -> Engine:
    """Open the engine of `settings.precision`: from the cache, else built by a child process. The gate comes later.

    A stored engine that is damaged or that the library cannot load is removed, reported to `on_damage`, and built
    again. ONNX Runtime needs no build; it computes in fp32.

    Raises:
        ProcunitError: the engine cannot be built or opened on this device.
        EngineError: the accelerator failed.
        BuildCancelledError: `stopping` became true.
    """
    if settings.kind == "ort":
        return ort_engine_from_bundle(bundle, settings)
    cache, key = EngineCache(cache_dir, on_damage), _key(bundle, settings)
    open_plans = open_plans or trt_engine_from_plans
    found = cache.find(key)
    if found is not None:
        try:
            return open_plans(found, bundle, settings)
        except UnfitPlanError as error:
            cache.remove(key, str(error))
    wanted = EngineBuild(bundle.path, settings.precision, settings.kind, cache_dir, bundle.bundle_id)
    build_in_child(wanted, on_progress, stopping)
    built = cache.find(key)
    if built is None:
        raise ProcunitError(
            "the engine was built for another key than this process expects",
            where=str(bundle.path),
            remedy="Check that the bundle does not change and that only one version of TensorRT is installed",
        )
    return open_plans(built, bundle, settings)


def ort_engine_from_bundle(bundle: BundleContent, settings: EngineSettings) -> Engine:
    """The default engine: ONNX Runtime on the CPU.

    Raises:
        ProcunitError: the graph or the bank cannot be used, or ONNX Runtime is not installed.
    """
    try:
        from edge.engine.ort import OrtEngine  # noqa: PLC0415  (the only module that needs the extra `ort`)
    except ModuleNotFoundError as error:
        raise ProcunitError(
            "ONNX Runtime is not installed", remedy="Run: pip install 'procunit-edge[ort,opencv]'"
        ) from error
    return OrtEngine(bundle.graphs(), bundle.bank(), threads=settings.threads)


def trt_engine_from_plans(built: CachedEngine, bundle: BundleContent, settings: EngineSettings) -> Engine:
    """TensorRT with built engines, on the GPU that this thread holds.

    Raises:
        ProcunitError: there is no GPU, pycuda is missing, the GPU has too little memory, or the bank does not fit.
        UnfitPlanError: the library cannot load the engine.
        EngineLostError: the GPU failed.
    """
    from edge.engine.cuda import cuda_from_system  # noqa: PLC0415  (only where the settings name TensorRT)
    from edge.engine.trt import TrtEngine  # noqa: PLC0415

    manifest = bundle.manifest
    return TrtEngine(
        built.plans,
        bundle.bank(),
        geometry=manifest.geometry,
        types=len(manifest.types),
        library=library_from_kind(settings.kind),
        cuda=cuda_from_system(),
    )


def in_words(failed: tuple[FailedPrecision, ...]) -> str:
    """What failed and why; precisions with the same problem are listed together."""
    return "; ".join(
        f"{', '.join(item.precision for item in same)}: {problem}"
        for problem, same in groupby(failed, key=lambda item: item.problem)
    )


def _settings_in_order(bundle: BundleContent, settings: EngineSettings, cache_dir: Path) -> Iterator[EngineSettings]:
    """The settings with each precision to try, in the order of `choose_engine`."""
    if settings.kind == "ort":
        yield settings.model_copy(update={"precision": "fp32"})
        return
    wanted = PRECISIONS.index(settings.precision)
    for precision in PRECISIONS[wanted:]:
        if precision in bundle.precisions:
            yield settings.model_copy(update={"precision": precision})
    for precision in reversed(PRECISIONS[:wanted]):
        faster = settings.model_copy(update={"precision": precision})
        if precision in bundle.precisions and _is_cached(bundle, faster, cache_dir):
            yield faster


def _is_cached(bundle: BundleContent, settings: EngineSettings, cache_dir: Path) -> bool:
    try:
        return EngineCache(cache_dir).find(_key(bundle, settings)) is not None
    except ProcunitError:  # the library is not installed
        return False


def _key(bundle: BundleContent, settings: EngineSettings) -> EngineKey:
    return engine_key(bundle, settings.precision, library_from_kind(settings.kind), gpu_identity())


class _Interruptible:
    """An engine that raises `BuildCancelledError` instead of inferring once `stopping` is true."""

    def __init__(self, engine: Engine, stopping: Callable[[], bool]) -> None:
        self._engine = engine
        self._stopping = stopping
        self.swap_bank, self.close = engine.swap_bank, engine.close
        self.interrupt = engine.interrupt if isinstance(engine, Interruptible) else _cannot_interrupt

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        if self._stopping():
            raise BuildCancelledError
        return self._engine.infer(tiles_u8)


def _cannot_interrupt() -> None:
    """TensorRT ends no inference before its time: the gate sees its limit only after the frame."""


def _gate_result(bundle: BundleContent, engine: Engine, stopping: Callable[[], bool]) -> GateResult:
    try:
        return check_golden(bundle, _Interruptible(engine, stopping))
    except BaseException:
        engine.close()
        raise
