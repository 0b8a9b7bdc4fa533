"""`procunit engine bench` on ONNX Runtime, and the bare backbone on doubles of TensorRT and of the CUDA driver."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from timm.data import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data import IMAGENET_DEFAULT_STD as IMAGENET_STD

from edge.bundle.reader import open_without_signature_check
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.protocol import EngineError
from edge.engine.trt import TrtEngine
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError
from edge.geometry import Geometry
from export.engines import bench as engine_bench
from export.engines.bare_engine import BareOrtEngine, BareTrtEngine
from export.engines.bare_graph import bare_graph
from export.engines.bench import bank_of_rows, bench_banks
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import build_engine
from export.engines.runtimes import JobContext
from export.engines.tables_cli import bench
from tests.doubles.cuda_double import CudaDouble
from tests.doubles.pycuda_double import cuda_over
from tests.doubles.tensorrt_double import TensorrtDouble, write_plan
from tests.export.bare_graphs import write_bare_graph
from tests.support.publishing import wait_until
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle, tiny_bank
from tests.support.tiny_graph import SIDE_PX

IMAGE = (2, SIDE_PX, SIDE_PX, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return write_bare_graph(tmp_path / "bare.onnx")


def _bench(*arguments: str | Path) -> Result:
    options = ["--kind", "ort", "--seconds", "0.5", "--threads", "1"]
    return CliRunner().invoke(bench, [*map(str, arguments), *options], env={"COLUMNS": "200"})


def test_both_scorers_are_measured_against_the_bare_backbone_at_every_bank(
    tiny: TinyBundle, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_bench, "BLOCK_S", 0.05)
    monkeypatch.setattr(engine_bench, "power_w", lambda: 7.5)
    figures = tmp_path / "figures.json"
    done = _bench(tiny.path, "--bare", bare, "--bank-rows", "64,16384", "--json", figures)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())
    small, large = found["banks"]
    assert (small["bank_rows"], large["bank_rows"]) == (64, 16384)
    assert large["engine"]["copied"]["p50_ms"] > 3 * small["engine"]["copied"]["p50_ms"]
    assert large["ratio_copied"] > small["ratio_copied"] > 1
    for bank in (small, large):
        copied = bank["engine"]["copied"]
        assert copied["p50_ms"] <= copied["p99_ms"]
        assert bank["engine"]["resident"] is None
        assert bank["power_w"] == 7.5
        assert bank["ratio_copied"] == pytest.approx(copied["p50_ms"] / bank["bare"]["copied"]["p50_ms"], rel=0.5)
    assert "larger ones repeat it" in done.output


def test_without_a_bare_backbone_it_explains_how_to_make_one(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_bench, "BLOCK_S", 0.02)
    done = _bench(tiny.path)
    assert done.exit_code == 0, done.output
    assert "procunit engine bare BUNDLE --out bare.onnx" in done.output
    missing = _bench(tiny.path, "--bare", tiny.path / "nowhere.onnx")
    assert isinstance(missing.exception, ProcunitError)
    assert "procunit engine bare" in str(missing.exception)


def test_a_graph_with_a_bank_is_refused_as_bare_backbone(tiny: TinyBundle) -> None:
    done = _bench(tiny.path, "--bare", open_without_signature_check(tiny.path).graphs()[0].path)
    assert isinstance(done.exception, ProcunitError)
    assert "not a bare backbone" in str(done.exception)


@pytest.mark.parametrize("rows", ["0", "16385", "many", "64,"])
def test_an_impossible_bank_size_is_refused_before_anything_runs(tiny: TinyBundle, rows: str) -> None:
    assert _bench(tiny.path, "--bank-rows", rows).exit_code == 2


def test_a_larger_bank_repeats_the_bundles_and_a_smaller_one_is_part_of_it() -> None:
    bank = tiny_bank()
    larger = bank_of_rows(bank, 700)
    np.testing.assert_array_equal(larger[:512], bank)
    assert larger.shape == (700, bank.shape[1])
    assert larger.dtype == np.float32
    nearest = np.linalg.norm(larger[512:, None, :-1] - bank[None, :, :-1], axis=2).min(axis=1)
    assert 0 < nearest.mean() < bank[:, :-1].std()
    assert set(larger[:, -1]) <= set(bank[:, -1]), "every row has the local scale of the row that it repeats"
    rows = {row.tobytes() for row in bank}
    assert all(row.tobytes() in rows for row in bank_of_rows(bank, 100))


@pytest.mark.slow
def test_the_bare_graph_matches_timms_network_and_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    path, geometry = tmp_path / "bare.onnx", Geometry(input_height_px=SIDE_PX, input_width_px=SIDE_PX, channels=1)
    torch.manual_seed(0)
    bare_graph("mobilenetv3_small_050", geometry, "fp16", path)
    tiles = np.random.default_rng(0).integers(0, 256, IMAGE, np.uint8)
    logits = BareOrtEngine(path, threads=1).infer(tiles)
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        wanted = network((torch.from_numpy(tiles).float().permute(0, 3, 1, 2) - mean) / std).numpy()
    assert np.abs(logits - wanted).max() < 0.02 * np.abs(wanted).max()
    built = build_engine(path, library_from_kind("tensorrt_rtx"), tiles=IMAGE[0], timing=b"", tracker=BuildTracker())
    assert len(built.plan) > 100_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["bare.onnx"]


class Device:
    """The doubles and a plan of the bare backbone."""

    def __init__(self, graph: Path) -> None:
        self.driver = CudaDouble()
        self.tensorrt = TensorrtDouble(self.driver)
        self.plan = write_plan(graph.with_suffix(".plan"), graph, IMAGE[0])

    def engine(self) -> BareTrtEngine:
        return BareTrtEngine(self.plan, IMAGE, self.tensorrt.library(), cuda_over(self.driver))

    def check_released(self) -> None:
        gc.collect()
        assert (self.driver.held, self.driver.breaches, self.tensorrt.alive) == ({}, [], 0)


def test_the_bare_engine_computes_what_its_graph_does_and_releases_everything(bare: Path) -> None:
    device = Device(bare)
    engine = device.engine()
    reference = BareOrtEngine(bare, threads=1)
    for seed in range(3):
        tiles = np.random.default_rng(seed).integers(0, 256, IMAGE, np.uint8)
        np.testing.assert_array_equal(engine.infer(tiles), reference.infer(tiles))
    launches = device.driver.calls["cuGraphLaunch"]
    engine.run_resident(4)
    assert device.driver.calls["cuGraphLaunch"] == launches + 4
    engine.close()
    engine.close()
    device.check_released()


def test_on_a_gpu_both_are_timed_with_and_without_copies(
    bare: Path, tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_bench, "BLOCK_S", 0.05)
    content = open_without_signature_check(tiny.path)
    driver = CudaDouble()
    tensorrt = TensorrtDouble(driver)
    plan = write_plan(tmp_path / "engine-0.plan", content.graphs()[0].path, 1)
    manifest = content.manifest
    engine = TrtEngine(
        [plan],
        content.bank(),
        geometry=manifest.geometry,
        types=len(manifest.types),
        library=tensorrt.library(),
        cuda=cuda_over(driver),
    )
    bare_plan = write_plan(bare.with_suffix(".plan"), bare, 1)
    bare_engine = BareTrtEngine(bare_plan, (1, *IMAGE[1:]), tensorrt.library(), cuda_over(driver))
    phases: list[BuildProgress] = []
    stopped = False
    job = JobContext(tmp_path, phases.append, lambda _: stopped)
    (figures,) = bench_banks(content, engine, bare_engine, (600,), 0.1, job)
    assert figures.bank_rows == 600
    assert figures.engine.resident is not None
    assert figures.engine.resident.runs > 10
    assert figures.ratio_resident is not None
    assert figures.ratio_resident > 0
    assert phases[-1].phase == "bank of 600 rows"
    stopped = True
    with pytest.raises(BuildCancelledError):
        bench_banks(content, engine, bare_engine, (600,), 60, job)
    bare_engine.close()
    engine.close()
    gc.collect()
    assert (driver.held, driver.breaches, tensorrt.alive) == ({}, [], 0)


def test_ctrl_c_ends_it_and_leaves_no_figures(tiny: TinyBundle, tmp_path: Path) -> None:
    command = ["engine", "bench", str(tiny.path), "--seconds", "600", "--json", str(tmp_path / "figures.json")]
    running = subprocess.Popen(
        [sys.executable, "-c", "from edge.cli.main import main; main()", *command], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: "onnxruntime" in Path(f"/proc/{running.pid}/maps").read_text(), 30)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130
    assert stderr == "procunit: stopped\n"
    assert list(tmp_path.iterdir()) == []


def _no_memory(device: Device) -> None:
    device.tensorrt.lacks_memory = True


def _refuses(device: Device) -> None:
    device.tensorrt.fails_to_run = True


def _no_capture(device: Device) -> None:
    device.driver.fail("cuStreamBeginCapture_v2")


def _another_graph(device: Device) -> None:
    write_plan(device.plan, device.plan.parent / "tiny.onnx", IMAGE[0])


@pytest.mark.parametrize("trouble", [_no_memory, _refuses, _no_capture, _another_graph])
def test_a_bare_engine_that_cannot_be_set_up_leaves_nothing_on_the_gpu(
    bare: Path, tiny: TinyBundle, trouble: Callable[[Device], None]
) -> None:
    graph = open_without_signature_check(tiny.path).graphs()[0]
    (bare.parent / "tiny.onnx").write_bytes(graph.read_bytes())
    device = Device(bare)
    trouble(device)
    with pytest.raises((EngineError, ProcunitError)):
        device.engine()
    device.check_released()
