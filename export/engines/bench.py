"""Latency, throughput, memory and power of a bundle's engine, against the bare backbone in alternating blocks.

Alternating blocks share every disturbance of the machine, so the ratio of the two is stable even if the times are not.
The ratio is the median, over pairs of neighbouring blocks, of the ratio of the blocks' medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent
from edge.engine.golden_gate import golden_pixels
from edge.engine.key import gpu_identity
from edge.engine.protocol import Engine
from edge.engine.settings import EngineKind
from edge.engine.trt_library import library_from_kind
from edge.preprocess import tensor_from_pixels
from edge.record import Record
from edge.system.sensors import power_w
from export.engines.bare_engine import BareEngine, BareOrtEngine, bare_trt_engine
from export.engines.memory import MemoryMeter
from export.engines.runtimes import JobContext, open_engine_on

BLOCK_S = 0.5
"""Length of one block, in which only one of the two runs."""
_FEWEST_RUNS = 3
_POWER_EVERY_S = 1.0
_NOISE = 0.01


@runtime_checkable
class ResidentEngine(Protocol):
    """An engine that can run again on the input that is already in GPU memory."""

    def run_resident(self, times: int) -> None:
        """Run on the last uploaded image, without copying the outputs back."""
        ...


class Latency(Record):
    """Latency of one inference in milliseconds, over `runs` inferences."""

    p50_ms: float
    p99_ms: float
    runs: int


class NetworkFigures(Record):
    """One network's figures: `copied` includes the copies to and from the GPU, `resident` does not (None on a CPU)."""

    copied: Latency
    resident: Latency | None
    per_s: float


class BankFigures(Record):
    """Figures for one bank size; a ratio is the engine's time divided by the bare backbone's."""

    bank_rows: int
    engine: NetworkFigures
    bare: NetworkFigures | None
    ratio_copied: float | None
    ratio_resident: float | None
    power_w: float | None


class Bench(Record):
    """What `procunit engine bench` measured."""

    bundle: str
    runtime: EngineKind
    version: str
    gpu: str
    precision: Precision
    tiles: int
    bare: str | None
    host_mb: float
    gpu_mb: float | None
    banks: tuple[BankFigures, ...]


@dataclass
class _BlockTimes:
    """The inference times of one network, block by block, in milliseconds."""

    copied: list[NDArray[np.float64]] = field(default_factory=list)
    resident: list[NDArray[np.float64]] = field(default_factory=list)

    def figures(self) -> NetworkFigures:
        copied = np.concatenate(self.copied)
        resident = np.concatenate(self.resident) if self.resident else None
        return NetworkFigures(
            copied=_latency(copied),
            resident=None if resident is None else _latency(resident),
            per_s=1000 / float(copied.mean()),
        )


def bench_bundle(
    content: BundleContent,
    kind: EngineKind,
    precision: Precision,
    bare: Path | None,
    rows: Sequence[int],
    seconds: float,
    threads: int,
    job: JobContext,
) -> Bench:
    """Open the engine and, if given, the bare backbone, and measure them for `seconds` per bank size.

    Raises:
        ProcunitError: one of them cannot be built or opened, or a bank is too large.
        EngineError: one of them failed.
        BuildCancelledError: a stop was requested.
    """
    tiles = tiles_of(content)
    library = None if kind == "ort" else library_from_kind(kind)
    with ExitStack() as opened:
        meter = opened.enter_context(MemoryMeter(gpu=kind != "ort"))
        job.step("opening the engine")
        engine = open_engine_on(kind, content, precision, threads, job)
        opened.callback(engine.close)
        engine.infer(tiles)
        memory = meter.growth()
        bare_engine: BareEngine | None = None
        if bare is not None:
            job.step("opening the bare backbone")
            bare_engine = (
                BareOrtEngine(bare, threads) if library is None else bare_trt_engine(bare, tiles.shape, library, job)
            )
            opened.callback(bare_engine.close)
            bare_engine.infer(tiles)
        banks = bench_banks(content, engine, bare_engine, rows, seconds, job)
    return Bench(
        bundle=content.bundle_id,
        runtime=kind,
        version=metadata.version("onnxruntime") if library is None else library.version,
        gpu=gpu_identity().name,
        precision=precision,
        tiles=len(tiles),
        bare=None if bare is None else bare.name,
        host_mb=memory.host_mb,
        gpu_mb=memory.gpu_mb,
        banks=banks,
    )


def tiles_of(content: BundleContent) -> NDArray[np.uint8]:
    """The first golden frame as the network's input: uint8 [N, H, W, C]."""
    frame = content.golden().frames[0]
    return tensor_from_pixels(golden_pixels(content, frame), content.manifest.geometry)


def bank_of_rows(bank: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """A bank of another size: some of its rows, or all of them plus noisy copies with the same local scale."""
    draw = np.random.default_rng(0)
    if rows <= len(bank):
        return bank[draw.permutation(len(bank))[:rows]]
    repeated = bank[draw.integers(0, len(bank), rows - len(bank))]
    features = repeated[:, :-1]
    features += np.float32(_NOISE * bank[:, :-1].std()) * draw.standard_normal(features.shape, np.float32)
    return np.concatenate([bank, repeated])


def bench_banks(
    content: BundleContent,
    engine: Engine,
    bare: BareEngine | None,
    rows: Sequence[int],
    seconds: float,
    job: JobContext,
) -> tuple[BankFigures, ...]:
    """Measure the engine at each number of bank rows for `seconds`, in blocks that alternate with the bare backbone's.

    Raises:
        ProcunitError: a bank is too large for the engine.
        EngineError: an engine failed.
    """
    tiles, bank = tiles_of(content), content.bank()
    figures = []
    for count in rows:
        engine.swap_bank(bank if count == len(bank) else bank_of_rows(bank, count))
        started_s, name = time.monotonic(), f"bank of {count} rows"

        def progress(started_s: float = started_s, name: str = name) -> bool:
            passed = time.monotonic() - started_s
            job.step(name, min(1.0, passed / seconds))
            return passed < seconds

        figures.append(_bank_figures(engine, bare, tiles, count, progress))
    return tuple(figures)


def _bank_figures(
    engine: Engine, bare: BareEngine | None, tiles: NDArray[np.uint8], rows: int, keep_measuring: Callable[[], bool]
) -> BankFigures:
    networks: list[tuple[Engine | BareEngine, _BlockTimes]] = [(engine, _BlockTimes())]
    if bare is not None:
        networks.append((bare, _BlockTimes()))
    for network, _ in networks:
        _block(partial(network.infer, tiles), BLOCK_S / 2, [])
    power_samples_w: list[float] = []
    while True:
        for network, times in networks:
            watts = power_samples_w if network is engine else None
            times.copied.append(_block(partial(network.infer, tiles), BLOCK_S, watts))
            if isinstance(network, ResidentEngine):
                times.resident.append(_block(partial(network.run_resident, 1), BLOCK_S, watts))
        if not keep_measuring():
            break
    ours, theirs = networks[0][1], networks[1][1] if bare is not None else None
    return BankFigures(
        bank_rows=rows,
        engine=ours.figures(),
        bare=None if theirs is None else theirs.figures(),
        ratio_copied=None if theirs is None else _ratio(ours.copied, theirs.copied),
        ratio_resident=None if theirs is None else _ratio(ours.resident, theirs.resident),
        power_w=float(np.median(power_samples_w)) if power_samples_w else None,
    )


def _block(run: Callable[[], object], seconds: float, power_samples_w: list[float] | None) -> NDArray[np.float64]:
    """Run for `seconds` and return the times in milliseconds; power is read between two runs and appended."""
    times_ms: list[float] = []
    now_s = time.monotonic()
    until_s, power_s = now_s + seconds, now_s + min(seconds / 2, _POWER_EVERY_S)
    while len(times_ms) < _FEWEST_RUNS or time.monotonic() < until_s:
        started_ns = time.perf_counter_ns()
        run()
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
        if power_samples_w is not None and time.monotonic() > power_s:
            power_s = time.monotonic() + _POWER_EVERY_S
            watts = power_w()
            power_samples_w += [] if watts is None else [watts]
    return np.array(times_ms)


def _latency(times_ms: NDArray[np.float64]) -> Latency:
    p50, p99 = np.percentile(times_ms, [50, 99]).tolist()
    return Latency(p50_ms=p50, p99_ms=p99, runs=len(times_ms))


def _ratio(ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]) -> float | None:
    ratios = [float(np.median(a) / np.median(b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.median(ratios)) if ratios else None
