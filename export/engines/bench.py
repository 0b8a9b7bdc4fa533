"""Latency, throughput, memory and power of a bundle's engine, against the bare backbone in alternating blocks.

The two share every disturbance of the machine when their blocks alternate, so that their ratio holds where neither
time does. The ratio is the median over pairs of neighbouring blocks of the ratio of the blocks' medians.
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
from edge.engine.key import gpu_identity
from edge.engine.protocol import Engine
from edge.engine.settings import EngineKind
from edge.engine.trt_library import library_from_kind
from edge.image_file import read_image
from edge.preprocess import tensor_from_pixels
from edge.record import Record
from edge.system.sensors import power_w
from export.engines.bare_engine import BareEngine, BareOrtEngine, bare_trt_engine
from export.engines.memory import MemoryMeter
from export.engines.runtimes import Work, open_on

BLOCK_S = 0.5
"""How long one of the two runs before the other does."""
_FEWEST_RUNS = 3
_POWER_EVERY_S = 1.0
_NOISE = 0.01


@runtime_checkable
class Resident(Protocol):
    """An engine that can run again on what is in the GPU's memory already."""

    def run_resident(self, times: int) -> None:
        """Run on the image copied in last; copy nothing out."""
        ...


class Latency(Record):
    """Milliseconds of one inference over `runs`; with copies from host memory to host memory, or without."""

    p50_ms: float
    p99_ms: float
    runs: int


class Timed(Record):
    """One network's figures; `resident` is None where nothing is copied, on a CPU."""

    copied: Latency
    resident: Latency | None
    per_s: float


class BankFigures(Record):
    """A bank's size, the engine at it and the bare backbone beside it; a ratio is the engine's time over the bare's."""

    bank_rows: int
    engine: Timed
    bare: Timed | None
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
class _Times:
    """One network's measured blocks, in milliseconds."""

    copied: list[NDArray[np.float64]] = field(default_factory=list)
    resident: list[NDArray[np.float64]] = field(default_factory=list)

    def figures(self) -> Timed:
        copied = np.concatenate(self.copied)
        resident = np.concatenate(self.resident) if self.resident else None
        return Timed(
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
    work: Work,
) -> Bench:
    """Open the engine and, if there is one, the bare backbone, and measure them for so many seconds a bank.

    Raises:
        ProcunitError: one of them cannot be built or opened, or a bank is too large.
        EngineError: one of them failed.
        BuildCancelledError: it was ended.
    """
    tiles = tiles_of(content)
    library = None if kind == "ort" else library_from_kind(kind)
    with ExitStack() as opened:
        meter = opened.enter_context(MemoryMeter(gpu=kind != "ort"))
        work.step("opening the engine")
        engine = open_on(kind, content, precision, threads, work)
        opened.callback(engine.close)
        engine.infer(tiles)
        memory = meter.growth()
        yardstick: BareEngine | None = None
        if bare is not None:
            work.step("opening the bare backbone")
            yardstick = (
                BareOrtEngine(bare, threads) if library is None else bare_trt_engine(bare, tiles.shape, library, work)
            )
            opened.callback(yardstick.close)
            yardstick.infer(tiles)
        banks = bench_banks(content, engine, yardstick, rows, seconds, work)
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
    """The first golden frame as the network gets it: uint8 [N, H, W, C]."""
    frame = content.golden().frames[0]
    return tensor_from_pixels(read_image(content.path / frame.file), content.manifest.geometry)


def bank_of_rows(bank: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """A bank of another size: some of its rows, or all and more that repeat them, reach too, but for noise."""
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
    work: Work,
) -> tuple[BankFigures, ...]:
    """Measure the engine at each number of bank rows for so many seconds, in blocks that alternate with the bare one's.

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
            work.step(name, min(1.0, passed / seconds))
            return passed < seconds

        figures.append(_bank_figures(engine, bare, tiles, count, progress))
    return tuple(figures)


def _bank_figures(
    engine: Engine, bare: BareEngine | None, tiles: NDArray[np.uint8], rows: int, go_on: Callable[[], bool]
) -> BankFigures:
    networks: list[tuple[Engine | BareEngine, _Times]] = [(engine, _Times())]
    if bare is not None:
        networks.append((bare, _Times()))
    for network, _ in networks:
        _block(partial(network.infer, tiles), BLOCK_S / 2, [])
    drawn_w: list[float] = []
    while True:
        for network, times in networks:
            watts = drawn_w if network is engine else None
            times.copied.append(_block(partial(network.infer, tiles), BLOCK_S, watts))
            if isinstance(network, Resident):
                times.resident.append(_block(partial(network.run_resident, 1), BLOCK_S, watts))
        if not go_on():
            break
    ours, theirs = networks[0][1], networks[1][1] if bare is not None else None
    return BankFigures(
        bank_rows=rows,
        engine=ours.figures(),
        bare=None if theirs is None else theirs.figures(),
        ratio_copied=None if theirs is None else _ratio(ours.copied, theirs.copied),
        ratio_resident=None if theirs is None else _ratio(ours.resident, theirs.resident),
        power_w=float(np.median(drawn_w)) if drawn_w else None,
    )


def _block(run: Callable[[], object], seconds: float, drawn_w: list[float] | None) -> NDArray[np.float64]:
    """The times of runs for so long, in milliseconds; the power drawn meanwhile is read between two of them."""
    times_ms: list[float] = []
    now_s = time.monotonic()
    until_s, power_s = now_s + seconds, now_s + min(seconds / 2, _POWER_EVERY_S)
    while len(times_ms) < _FEWEST_RUNS or time.monotonic() < until_s:
        started_ns = time.perf_counter_ns()
        run()
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
        if drawn_w is not None and time.monotonic() > power_s:
            power_s = time.monotonic() + _POWER_EVERY_S
            watts = power_w()
            drawn_w += [] if watts is None else [watts]
    return np.array(times_ms)


def _latency(times_ms: NDArray[np.float64]) -> Latency:
    p50, p99 = np.percentile(times_ms, [50, 99]).tolist()
    return Latency(p50_ms=p50, p99_ms=p99, runs=len(times_ms))


def _ratio(ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]) -> float | None:
    ratios = [float(np.median(a) / np.median(b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.median(ratios)) if ratios else None
