"""The engine on a real GPU: it matches the reference, its memory does not grow, and it recovers after a failure."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.manifest import PRECISIONS, Precision
from edge.bundle.reader import BundleContent
from edge.engine.cache import CachedEngine
from edge.engine.cuda import cuda_from_system
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.engine.trt import TrtEngine
from edge.engine.trt_library import TensorRT
from tests.gpu.conftest import open_trt

INFERENCES = 10_000
GROWTH_MB = 2.0
SHARED_GROWTH_MB = 64.0
"""On a Jetson the GPU's memory is the machine's, which other programs use too."""

Build = Callable[[Precision], CachedEngine]
Figure = Callable[[str, str], None]
Frames = list[NDArray[np.uint8]]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_golden_gate(
    precision: Precision, build: Build, content: BundleContent, library: TensorRT, figure: Figure
) -> None:
    if precision not in content.precisions:
        with pytest.raises(Exception, match=f"no {precision} graphs"):
            build(precision)
        return
    engine = open_trt(build(precision), content, library)
    result = check_golden(content, engine)
    engine.close()
    figure(f"golden gate, {precision}", str(result).replace("|", "/"))
    assert result.passed or precision == "int8", str(result)


def test_fp32_outputs_match_onnx_runtime(
    build: Build, content: BundleContent, library: TensorRT, frames: Frames, figure: Figure
) -> None:
    reference = OrtEngine(content.graphs(), content.bank())
    engine = open_trt(build("fp32"), content, library)
    found = [(engine.infer(tiles), reference.infer(tiles)) for tiles in frames]
    engine.close()
    distance = max(float(np.abs(a.anomaly_score - b.anomaly_score).max()) for a, b in found)
    largest = max(float(b.anomaly_score.max()) for _, b in found)
    logit = max(float(np.abs(a.logits - b.logits).max(initial=0.0)) for a, b in found)
    figure("fp32 against ONNX Runtime on the golden frames", f"logits {logit:.2g}, distances {distance:.2g}")
    assert distance <= 2e-3 * max(largest, 1.0)
    assert logit <= 2e-2


def test_ten_thousand_inferences_take_no_more_memory(engine: TrtEngine, frames: Frames, figure: Figure) -> None:
    meter = cuda_from_system()
    for tiles in (frames * 100)[:100]:
        engine.infer(tiles)
    with meter.current():
        before, _ = meter.memory_bytes()
    for index in range(INFERENCES):
        engine.infer(frames[index % len(frames)])
    with meter.current():
        after, _ = meter.memory_bytes()
    shared = meter.integrated
    meter.close()
    grown_mb = (before - after) / 1e6
    figure(f"GPU memory after {INFERENCES} inferences", f"{grown_mb:+.2f} MB")
    assert grown_mb <= (SHARED_GROWTH_MB if shared else GROWTH_MB)


def test_a_bank_swapped_under_load_gives_no_wrong_result(
    engine: TrtEngine, content: BundleContent, frames: Frames, figure: Figure
) -> None:
    rng, bank = np.random.default_rng(0), content.bank()
    banks = [bank, bank[: max(len(bank) // 2, 1)], np.asarray(bank + np.float32(0.5), np.float32)]
    expected = []
    for candidate in banks:
        engine.swap_bank(candidate)
        expected.append(engine.infer(frames[0]).anomaly_map)
    assert not np.allclose(expected[0], expected[2], rtol=1e-2)
    swap_ms = []
    for _ in range(500):
        chosen = int(rng.integers(len(banks)))
        started_s = time.perf_counter()
        engine.swap_bank(banks[chosen])
        swap_ms.append(1e3 * (time.perf_counter() - started_s))
        for _ in range(4):
            np.testing.assert_allclose(engine.infer(frames[0]).anomaly_map, expected[chosen], rtol=1e-4, atol=1e-5)
    figure("2000 inferences with 500 swaps of the bank", f"no wrong result; a swap p50 {np.median(swap_ms):.2f} ms")


def test_latency(engine: TrtEngine, frames: Frames, figure: Figure) -> None:
    def timed_ms(run: Callable[[], object]) -> NDArray[np.float64]:
        times = []
        for _ in range(1000):
            started_s = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started_s))
        return np.asarray(times)

    timed_ms(lambda: engine.infer(frames[0]))
    whole, alone = timed_ms(lambda: engine.infer(frames[0])), timed_ms(lambda: engine.run_resident(1))
    for what, times in (("with copies", whole), ("without copies", alone)):
        p50, p99 = np.percentile(times, [50, 99])
        figure(f"latency {what}, {frames[0].shape[0]} tiles", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    assert np.median(alone) <= np.median(whole)


def test_a_gpu_that_fails_loses_the_engine_and_the_next_process_goes_on(
    build: Build, content: BundleContent, library: TensorRT, frames: Frames, figure: Figure
) -> None:
    built = build("fp32")
    command = [sys.executable, "-m", "tests.gpu.broken_engine", library.module.__name__, str(content.path)]
    child = subprocess.run(
        [*command, *map(str, built.plans)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "lost: " in child.stdout, child.stdout + child.stderr
    figure("an address that is not the engine's", " ".join(child.stdout.split()).replace("|", "/"))
    engine = open_trt(built, content, library)
    assert np.isfinite(engine.infer(frames[0]).anomaly_score).all()
    engine.close()
