"""The choice of the engine: real builds by TensorRT for RTX on the CPU, opened by a double of its runtime."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.bundle.manifest import PRECISIONS, Precision
from edge.bundle.reader import BundleContent, open_without_signature_check
from edge.bundle.sealed_file import SealedFile
from edge.engine.build_progress import BuildCancelledError
from edge.engine.cache import CachedEngine
from edge.engine.choice import ChosenEngine, EngineUnavailableError, choose_engine, open_engine
from edge.engine.protocol import Engine, EngineLostError, UnfitPlanError
from edge.engine.settings import EngineSettings
from edge.errors import ProcunitError
from tests.support.device import REPOSITORY
from tests.support.engines import PlanDouble
from tests.support.tiny_bundle import build_tiny_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleContent, Path]:
    """A bundle with every precision, and a cache with the engines of fp16 and fp32."""
    folder = tmp_path_factory.mktemp("built")
    bundle = open_without_signature_check(build_tiny_bundle(folder, precisions=PRECISIONS).path)
    for precision in ("fp16", "fp32"):
        settings = EngineSettings(kind="tensorrt_rtx", precision=precision)
        PlanDouble().open(bundle, settings, folder / "engines", lambda _: None).close()
    return bundle, folder / "engines"


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every build fails."""

    def refuse(build: object, *_: object) -> None:
        raise ProcunitError("the builder does not work today")

    monkeypatch.setattr("edge.engine.choice.build_in_child", refuse)


def choose(
    built: tuple[BundleContent, Path], precision: Precision, double: PlanDouble, reported: list[str] | None = None
) -> ChosenEngine:
    bundle, cache_dir = built
    damage: list[str] = [] if reported is None else reported
    settings = EngineSettings(kind="tensorrt_rtx", precision=precision)
    return choose_engine(
        bundle,
        settings,
        cache_dir,
        lambda _: None,
        stopping=lambda: False,
        on_damage=damage.append,
        engine_opener=double.open,
    )


def test_the_wanted_precision_is_chosen_if_it_passes(built: tuple[BundleContent, Path], no_child: None) -> None:
    double = PlanDouble()
    chosen = choose(built, "fp16", double)
    assert (chosen.precision, chosen.failed, double.opened) == ("fp16", (), ["fp16"])
    assert chosen.gate.passed


def test_a_precision_that_fails_the_gate_is_closed_and_the_next_one_chosen(
    built: tuple[BundleContent, Path], no_child: None
) -> None:
    double = PlanDouble(drifts={"fp16": 1.0})
    chosen = choose(built, "fp16", double)
    assert chosen.precision == "fp32"
    assert [engine.closed for engine in double.made] == [True, False]
    (failed,) = chosen.failed
    assert failed.precision == "fp16"
    assert "golden frames fail, the worst golden/" in failed.problem
    assert "spreads" in failed.problem


def test_if_a_precision_cannot_be_built_a_cached_one_is_chosen(
    built: tuple[BundleContent, Path], no_child: None
) -> None:
    chosen = choose(built, "int8", PlanDouble())
    assert chosen.precision == "fp16"
    assert [(f.precision, f.problem) for f in chosen.failed] == [("int8", "the builder does not work today")]


def test_a_cached_engine_is_the_last_resort_even_if_it_is_a_faster_one(
    built: tuple[BundleContent, Path], no_child: None
) -> None:
    chosen = choose(built, "fp32", PlanDouble(problems={"fp32": [ProcunitError("the GPU lacks memory")]}))
    assert (chosen.precision, [f.precision for f in chosen.failed]) == ("fp16", ["fp32"])


def test_if_nothing_passes_every_reason_is_given_once(built: tuple[BundleContent, Path], no_child: None) -> None:
    lost = EngineLostError("the GPU failed: launch timed out")
    double = PlanDouble(problems={"fp16": [lost]}, drifts={"fp32": 1.0})
    with pytest.raises(EngineUnavailableError) as caught:
        choose(built, "int8", double)
    text = str(caught.value)
    assert "no engine passed the golden frames (int8: the builder does not work" in text
    assert (
        "int8: the builder does not work today; fp16: the GPU failed: launch timed out; fp32: its results differ"
        in text
    )
    assert all(engine.closed for engine in double.made)


def test_a_bundle_without_the_wanted_graph_is_a_reason(tmp_path: Path, no_child: None) -> None:
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path).path)
    with pytest.raises(EngineUnavailableError, match="fp16: the bundle has no such graph; fp32: the builder"):
        choose((bundle, tmp_path / "engines"), "fp16", PlanDouble())


def test_a_truncated_engine_is_reported_and_built_again(built: tuple[BundleContent, Path]) -> None:
    bundle, cache_dir = built
    settings = EngineSettings(kind="tensorrt_rtx", precision="fp16")
    opened: list[SealedFile] = []

    def note(found: CachedEngine, bundle: BundleContent, settings: EngineSettings) -> Engine:
        opened.extend(found.plans)
        return PlanDouble().open_plans(found, bundle, settings)

    def open_it() -> None:
        open_engine(bundle, settings, cache_dir, lambda _: None, on_damage=reported.append, open_plans=note)

    reported: list[str] = []
    open_it()
    whole = opened[0].read_bytes()
    os.truncate(opened[0].path, 1000)
    open_it()
    assert len(reported) == 1
    assert f"1000 bytes long instead of {len(whole)}" in reported[0]
    assert opened[1].entry.size_bytes > 1000


def test_an_exchanged_engine_with_fitting_hashes_is_not_opened_but_built_again(
    built: tuple[BundleContent, Path],
) -> None:
    """Whoever may write into the cache gives the plan of FP32 the name and the record of FP16's."""
    bundle, cache_dir = built
    reported: list[str] = []
    opened: list[SealedFile] = []

    def note(found: CachedEngine, bundle: BundleContent, settings: EngineSettings) -> Engine:
        opened.extend(found.plans)
        return PlanDouble().open_plans(found, bundle, settings)

    def open_it(precision: Precision) -> bytes:
        settings = EngineSettings(kind="tensorrt_rtx", precision=precision)
        open_engine(bundle, settings, cache_dir, lambda _: None, on_damage=reported.append, open_plans=note)
        return opened[-1].read_bytes()

    other = open_it("fp32")
    open_it("fp16")
    folder = opened[-1].root
    (folder / "engine-0.plan").write_bytes(other)
    record = json.loads((folder / "engine.json").read_text())
    record["plans"] = [{"sha256": hashlib.sha256(other).hexdigest(), "size_bytes": len(other)}]
    (folder / "engine.json").write_text(json.dumps(record))
    assert open_it("fp16") != other
    assert len(reported) == 1
    assert "no mark of this device" in reported[0]


def test_an_engine_that_the_library_cannot_load_is_reported_and_built_again(built: tuple[BundleContent, Path]) -> None:
    reported: list[str] = []
    double = PlanDouble(problems={"fp16": [UnfitPlanError("made by another version")]})
    chosen = choose(built, "fp16", double, reported)
    assert (chosen.precision, chosen.failed, reported) == ("fp16", (), ["made by another version"])
    assert double.opened == ["fp16", "fp16"]


def test_a_missing_library_is_one_reason_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Jetson without python3-libnvinfer: in this process and in the one that builds."""
    (tmp_path / "tensorrt.py").write_text('raise ModuleNotFoundError("No module named tensorrt", name="tensorrt")')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path, precisions=PRECISIONS).path)
    settings = EngineSettings(kind="tensorrt", precision="int8")
    with pytest.raises(EngineUnavailableError) as caught:
        choose_engine(
            bundle,
            settings,
            tmp_path / "engines",
            lambda _: None,
            stopping=lambda: False,
            on_damage=lambda _: None,
            engine_opener=open_engine,
        )
    text = str(caught.value)
    assert text.count("TensorRT is not installed") == 1
    assert "int8, fp16, fp32: " in text
    assert "sudo apt install python3-libnvinfer" in text


def test_without_a_gpu_the_real_engine_is_a_problem_with_a_reason(built: tuple[BundleContent, Path]) -> None:
    """In a process of its own, because CUDA looks once in a process at which GPUs it may see."""
    bundle, cache_dir = built
    program = f"""
from pathlib import Path
from edge.bundle.reader import open_without_signature_check
from edge.engine.choice import open_engine
from edge.engine.settings import EngineSettings
bundle = open_without_signature_check(Path({str(bundle.path)!r}))
open_engine(bundle, EngineSettings(kind="tensorrt_rtx"), Path({str(cache_dir)!r}), print)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert re.search(r"ProcunitError: .*(CUDA driver cannot be loaded|no GPU)", ended.stderr), ended.stderr


def test_a_bank_that_does_not_fit_is_a_reason_with_both_widths(
    built: tuple[BundleContent, Path], no_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BundleContent, "bank", lambda _self: np.ones((7, 6), np.float32))
    with pytest.raises(EngineUnavailableError, match="the bank has 5 features per row, the graph needs 3"):
        choose(built, "fp32", PlanDouble())


def test_the_gate_ends_when_it_is_cancelled(built: tuple[BundleContent, Path]) -> None:
    double, asked = PlanDouble(), iter(range(100))

    def stopping() -> bool:
        return next(asked) >= 2

    with pytest.raises(BuildCancelledError):
        choose_engine(
            built[0],
            EngineSettings(kind="tensorrt_rtx"),
            built[1],
            lambda _: None,
            stopping=stopping,
            on_damage=lambda _: None,
            engine_opener=double.open,
        )
    assert [(engine.count, engine.closed) for engine in double.made] == [(1, True)]


def test_nothing_is_started_after_a_cancellation(built: tuple[BundleContent, Path]) -> None:
    double = PlanDouble()
    with pytest.raises(BuildCancelledError):
        choose_engine(
            built[0],
            EngineSettings(kind="tensorrt_rtx"),
            built[1],
            lambda _: None,
            stopping=lambda: True,
            on_damage=lambda _: None,
            engine_opener=double.open,
        )
    assert double.opened == []
