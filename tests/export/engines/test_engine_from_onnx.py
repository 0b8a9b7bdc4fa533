"""Real engine builds by TensorRT-RTX on the CPU; failures that need a GPU are simulated through the logger."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edge.bundle.reader import open_without_signature_check
from edge.bundle.sealing import seal
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.cache import EngineCache
from edge.engine.trt_library import TensorRT, library_from_kind
from edge.errors import ProcunitError
from export.engines import build as engine_build
from export.engines.build import engine_from_bundle
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import BuiltEngine, available_memory_bytes, build_engine
from tests.support.tiny_bundle import build_tiny_bundle, write_demo_key
from tests.support.tiny_graph import write_tiny_graph

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")


@pytest.fixture(scope="module")
def library() -> TensorRT:
    return library_from_kind("tensorrt_rtx")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    write_tiny_graph(tmp_path / "model.onnx", 1)
    return tmp_path / "model.onnx"


def built(graph: Path, library: TensorRT, tracker: BuildTracker | None = None, tiles: int = 1) -> BuiltEngine:
    return build_engine(graph, library, tiles=tiles, timing=b"", tracker=tracker or BuildTracker())


def spied(library: TensorRT, builder: type) -> TensorRT:
    """The real library with another builder."""
    module = ModuleType("spied")
    module.__dict__.update(vars(library.module), Builder=builder)
    return replace(library, module=module)


def edited(graph: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(graph)
    change(model)
    onnx.save(model, graph)
    return graph


def test_every_build_is_strongly_typed_without_tf32_and_within_the_free_memory(graph: Path, library: TensorRT) -> None:
    trt: Any = library.module
    made: list[Any] = []

    class Spy(trt.Builder):  # type: ignore[misc]
        def create_network(self, flags: int) -> Any:
            made.append(super().create_network(flags))
            return made[-1]

        def create_builder_config(self) -> Any:
            made.append(super().create_builder_config())
            return made[-1]

    assert len(built(graph, spied(library, Spy)).plan) > 10_000
    network, config = made
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert (config.builder_optimization_level, config.max_aux_streams) == (3, 0)
    free_bytes = available_memory_bytes()
    assert free_bytes is not None
    assert 0 < config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) <= free_bytes
    assert config.num_optimization_profiles == 1


def test_progress_only_grows_and_reaches_the_end(graph: Path, library: TensorRT) -> None:
    seen: list[float] = []

    class Watched(BuildTracker):
        def _update(self, name: str) -> None:
            super()._update(name)
            seen.append(self.fraction)

    built(graph, library, Watched())
    assert seen == sorted(seen)
    assert len(set(seen)) > 50
    assert seen[-1] == pytest.approx(1.0)


def test_phases_within_a_step_share_the_rest_of_that_step() -> None:
    tracker = BuildTracker()
    tracker.start("engine", None, 2)
    reached = []
    for name in ("optimise", "time"):
        tracker.start(name, "engine", 1)
        tracker.complete(name, 0)
        reached.append(tracker.fraction)
        tracker.finish(name)
    tracker.complete("engine", 0)
    assert [*reached, tracker.fraction] == [0.25, 0.375, 0.5]
    assert tracker.complete("unheard", 3)


def test_a_cancelled_build_ends_at_the_next_step(graph: Path, library: TensorRT) -> None:
    steps: list[str] = []

    class Cancelled(BuildTracker):
        def complete(self, name: str, step: int) -> bool:
            steps.append(name)
            self.cancelled = len(steps) == 20
            return super().complete(name, step)

    with pytest.raises(BuildCancelledError):
        built(graph, library, Cancelled())
    assert len(steps) == 20


def unheard_of(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "Sqrt")
    node.op_type, node.name = "Unheard", "/search/Root"


def mixed_types(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Transpose")
    model.graph.node.insert(1, helper.make_node("Cast", ["image_f32"], ["half"], to=TensorProto.FLOAT16))
    node.input[0] = "half"


def other_inputs(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "picture"
    model.graph.node[0].input[0] = "picture"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unheard_of, r"does not support the node /search/Root \(Unheard\).*opset 17 or 18"),
        (lambda m: setattr(m.opset_import[0], "version", 6), r"Pre-opset 7.*opset 17 or 18"),
        (mixed_types, r"\(Div\).*must have same input types"),
        (other_inputs, "its inputs are bank, picture, not image and bank"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 3), "takes 3 tiles.*gives 1"),
    ],
    ids=["unsupported node", "old opset", "mixed types", "other inputs", "other tiles"],
)
def test_an_unbuildable_graph_gives_one_sentence_and_a_remedy(
    graph: Path, library: TensorRT, change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    with pytest.raises(ProcunitError, match=message) as caught:
        built(edited(graph, change), library)
    assert caught.value.where == str(graph)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, -300])
def test_a_truncated_graph_is_reported(graph: Path, library: TensorRT, keep: int) -> None:
    graph.write_bytes(graph.read_bytes()[:keep])
    with pytest.raises(ProcunitError, match=r"not a complete ONNX file|not a bundle's graph") as caught:
        built(graph, library)
    assert "Copy the bundle again" in str(caught.value)


@pytest.mark.parametrize(
    ("log_text", "message"),
    [
        ("[virtualMemoryBuffer.cpp::resizePhysical::156] Error Code 2: OutOfMemory (Requested size was 8e9)", "swap"),
        ("[resizingAllocator.cpp::allocate::74] Error Code 1: Cuda Runtime (out of memory)", "ran out of memory"),
        ("CUDA initialization failure with error: 35", "no usable GPU"),
        (
            "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for "
            "node {ForeignNode[/search/MatMul]}.)",
            r"no kernel on this GPU for the node \{ForeignNode\[/search/MatMul\]\}",
        ),
        ("Error Code 9: something unheard of", "something unheard of"),
    ],
)
def test_a_failed_build_is_explained(graph: Path, library: TensorRT, log_text: str, message: str) -> None:
    """The texts are TensorRT's own; a builder that fails with them replaces a GPU that would cause the failure."""
    trt: Any = library.module

    class Failing(trt.Builder):  # type: ignore[misc]
        def build_serialized_network(self, _network: object, _config: object) -> None:
            self.logger.log(trt.ILogger.ERROR, log_text)

    with pytest.raises(ProcunitError, match=message) as caught:
        built(graph, spied(library, Failing))
    assert caught.value.remedy


def test_a_library_that_gives_no_builder_is_reported_as_no_gpu(graph: Path, library: TensorRT) -> None:
    class NoBuilder:
        def __init__(self, logger: Any) -> None:
            logger.log(library.module.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(ProcunitError, match=r"no usable GPU.*nvidia-smi"):
        built(graph, spied(library, NoBuilder))


@pytest.mark.parametrize("timing", [b"", b"no cache at all" * 100])
def test_a_foreign_timing_cache_is_ignored(graph: Path, library: TensorRT, timing: bytes) -> None:
    first = build_engine(graph, library, tiles=1, timing=timing, tracker=BuildTracker())
    assert build_engine(graph, library, tiles=1, timing=first.timing, tracker=BuildTracker()).plan


def test_available_memory_is_read_from_meminfo(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 7990000 kB\nMemAvailable:    4096 kB\n")
    assert available_memory_bytes(tmp_path / "meminfo") == 4 << 20
    assert available_memory_bytes(tmp_path / "missing") is None


def test_a_bundle_s_engine_is_built_once_and_kept(tmp_path: Path, library: TensorRT) -> None:
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path).path)
    cache, reported = EngineCache(tmp_path / "engines"), list[BuildProgress]()
    first = engine_from_bundle(bundle, "fp32", library, cache, reported.append, lambda _: False)
    again = engine_from_bundle(bundle, "fp32", library, cache, reported.append, lambda _: False)
    assert (first.was_cached, again.was_cached) == (False, True)
    assert again.engine == first.engine
    assert reported[-1].phase.startswith("model: ")
    with pytest.raises(ProcunitError, match="no int8 graphs, only fp32"):
        engine_from_bundle(bundle, "int8", library, cache, reported.append, lambda _: False)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("lock", "secret"))


def test_a_failed_and_a_cancelled_build_leave_nothing(tmp_path: Path, library: TensorRT) -> None:
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path).path)
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(BuildCancelledError):
        engine_from_bundle(bundle, "fp32", library, cache, lambda _: None, lambda _: True)
    edited(bundle.graphs()[0].path, mixed_types)
    with pytest.raises(ProcunitError, match=r"model\.onnx: .*Copy the bundle again"):
        engine_from_bundle(bundle, "fp32", library, cache, lambda _: None, lambda _: False)
    bundle = seal(bundle.path, bundle.manifest, write_demo_key(tmp_path))
    with pytest.raises(ProcunitError, match="does not support the node"):
        engine_from_bundle(bundle, "fp32", library, cache, lambda _: None, lambda _: False)
    assert names_in(tmp_path / "engines") == []


def test_a_hung_builder_is_given_up(tmp_path: Path, library: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> BuiltEngine:
        release.wait(10)
        return BuiltEngine(b"", b"")

    monkeypatch.setattr(engine_build, "build_engine", hang)
    monkeypatch.setattr(engine_build, "STALLED_S", 0.1)
    monkeypatch.setattr(engine_build, "PROGRESS_INTERVAL_S", 0.05)
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path).path)

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    with pytest.raises(ProcunitError, match="not finished a step for") as caught:
        engine_from_bundle(bundle, "fp32", library, EngineCache(tmp_path / "engines"), lambda _: None, wait)
    release.set()
    assert re.search("Restart the device", str(caught.value))
