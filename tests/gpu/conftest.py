"""Fixtures of the tests on a GPU: the bundle, its engines built by the product, and the file for figures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent, open_without_signature_check
from edge.engine.cache import CachedEngine, EngineCache
from edge.engine.cuda import cuda_from_system
from edge.engine.key import NO_GPU, gpu_identity
from edge.engine.trt import TrtEngine
from edge.engine.trt_library import TensorRT, library_from_kind
from edge.image_file import read_image
from edge.preprocess import tensor_from_pixels
from export.engines.build import engine_from_bundle
from export.engines.runtimes import why_unavailable
from tests.support.tiny_bundle import build_tiny_bundle

BUNDLE_VARIABLE, FIGURES_VARIABLE = "PROCUNIT_GPU_BUNDLE", "PROCUNIT_GPU_FIGURES"

Floats = NDArray[np.float32]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here as `gpu`; without a CUDA GPU they are skipped, with the reason."""
    no_gpu = pytest.mark.skip(reason="no CUDA GPU here: run tools/gpu_check.sh on a machine that has one")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(1800))
            if gpu_identity().name == NO_GPU:
                item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def library() -> TensorRT:
    """TensorRT, else TensorRT for RTX; with neither the tests fail and tell why."""
    if why_unavailable("tensorrt") is None:
        return library_from_kind("tensorrt")
    return library_from_kind("tensorrt_rtx")


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> BundleContent:
    """The bundle that the environment names, else the tests' small one."""
    named = os.environ.get(BUNDLE_VARIABLE)
    path = Path(named) if named else build_tiny_bundle(tmp_path_factory.mktemp("tiny")).path
    return open_without_signature_check(path)


@pytest.fixture(scope="session")
def build(
    content: BundleContent, library: TensorRT, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Precision], CachedEngine]:
    """Builds each precision of the bundle once, as the daemon's child does."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))

    def built(precision: Precision) -> CachedEngine:
        stop = threading.Event()
        return engine_from_bundle(content, precision, library, cache, lambda _: None, stop.wait).engine

    return built


def open_trt(built: CachedEngine, content: BundleContent, library: TensorRT) -> TrtEngine:
    """Open the TensorRT engine on this thread's GPU."""
    geometry, types = content.manifest.geometry, len(content.manifest.types)
    cuda = cuda_from_system()
    return TrtEngine(built.plans, content.bank(), geometry=geometry, types=types, library=library, cuda=cuda)


@pytest.fixture
def engine(
    build: Callable[[Precision], CachedEngine], content: BundleContent, library: TensorRT
) -> Iterator[TrtEngine]:
    """The engine that a device runs by default: FP16 if the bundle has it, else FP32."""
    opened = open_trt(build("fp16" if "fp16" in content.precisions else "fp32"), content, library)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def frames(content: BundleContent) -> list[NDArray[np.uint8]]:
    """The golden frames as input tensors of the network."""
    manifest = content.manifest
    paths = [content.path / frame.file for frame in content.golden().frames]
    return [tensor_from_pixels(read_image(path), manifest.geometry) for path in paths]


@pytest.fixture
def figure() -> Callable[[str, str], None]:
    """Writes a figure as a line of a Markdown table, to the file that the environment names."""

    def note(what: str, value: str) -> None:
        line = f"| {what} | {value} |"
        print(line)
        if path := os.environ.get(FIGURES_VARIABLE):
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    return note
