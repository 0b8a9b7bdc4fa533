"""The key of an engine, and the GPU that the driver reports; the driver is a double of libcuda."""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge.bundle.reader import open_without_signature_check
from edge.engine.key import EngineKey, Gpu, engine_key, gpu_identity
from edge.engine.trt_library import TensorRT
from tests.support.tiny_bundle import build_tiny_bundle

KEY = EngineKey("TensorRT", "10.3.0", "Orin", "8.7", ("ab" * 32,), 1, "level 3")


class CudaDouble:
    """A double of libcuda with one Orin; the call named in `fails` returns CUDA_ERROR_NO_DEVICE."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 100 if name == self._fails else getattr(self, f"_{name}")(*arguments)

    def _cuInit(self, _flags: int) -> int:  # noqa: N802
        return 0

    def _cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def _cuDeviceGetName(self, name: Any, size: int, _device: Any) -> int:  # noqa: N802
        assert size == len(name)
        name.value = b"Orin"
        return 0

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, _device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def opened(double: CudaDouble) -> Any:
    return lambda _name: double


def test_the_driver_names_the_gpu() -> None:
    assert gpu_identity(opened(CudaDouble())) == Gpu("Orin", "8.7")


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"])
def test_a_driver_without_a_gpu_is_no_gpu(call: str) -> None:
    assert gpu_identity(opened(CudaDouble(fails=call))) == Gpu("none", "none")


def test_no_driver_is_no_gpu() -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    assert gpu_identity(missing) == Gpu()


@pytest.mark.parametrize(
    "change",
    [
        {"library": "TensorRT for RTX"},
        {"library_version": "10.16.1"},
        {"gpu": "Thor"},
        {"compute_capability": "11.0"},
        {"graphs_sha256": ("cd" * 32,)},
        {"tiles": 2},
        {"flags": "level 5"},
    ],
    ids=str,
)
def test_everything_that_an_engine_depends_on_changes_its_name(change: dict[str, Any]) -> None:
    other = replace(KEY, **change)
    assert other.name != KEY.name
    shares_timing = not change.keys() & {"library", "library_version", "gpu", "compute_capability"}
    assert (other.device_name == KEY.device_name) is shares_timing
    assert replace(KEY).name == KEY.name


def test_the_key_has_the_hashes_of_the_manifest(tmp_path: Path) -> None:
    bundle = open_without_signature_check(build_tiny_bundle(tmp_path, precisions=("fp32", "fp16")).path)
    library = TensorRT(ModuleType("double"), "TensorRT", "10.3.0", object(), deque())
    keys = [engine_key(bundle, precision, library, Gpu("Orin", "8.7")) for precision in bundle.precisions]
    assert [k.graphs_sha256 for k in keys] == [
        (bundle.manifest.files[name].sha256,) for name in ("model.fp16.onnx", "model.onnx")
    ]
    assert keys[0].name != keys[1].name
    assert all(k.tiles == 1 and "no TF32" in k.flags and "16384" in k.flags for k in keys)
