"""The cache key of a built engine: everything that the engine depends on, and the fixed options of every build.

An engine works with one version of the library on one GPU only; for any other it is built again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edge.bundle.manifest import Precision
from edge.bundle.reader import MAX_BANK_ROWS, BundleContent
from edge.engine.trt_library import TensorRT

OPTIMIZATION_LEVEL = 3
"""The builder's default. Levels 4 and 5 time many more kernels: minutes more on an Orin for a few per cent."""
MAX_AUX_STREAMS = 0
"""A part is one chain of layers in one CUDA graph: more streams would cost memory and synchronisation."""
BANK_ROWS = (1, 4096, MAX_BANK_ROWS)
"""Minimum, optimum and maximum rows of the bank: kernels are chosen for the optimum, all sizes in between work."""

_CUDA_SUCCESS = 0
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256
NO_GPU = "none"


@dataclass(frozen=True)
class Gpu:
    """Name and compute capability ("8.7") of the first GPU; both are `none` without a GPU."""

    name: str = NO_GPU
    compute_capability: str = NO_GPU


@dataclass(frozen=True)
class EngineKey:
    """Everything that a built engine depends on; engines with equal keys are interchangeable."""

    library: str
    library_version: str
    gpu: str
    compute_capability: str
    graphs_sha256: tuple[str, ...]
    tiles: int
    flags: str

    @property
    def name(self) -> str:
        """A file name: the hash of the whole key."""
        return _short_hash(asdict(self))

    @property
    def device_name(self) -> str:
        """A file name: the hash of library and GPU, which kernel times depend on."""
        return _short_hash([self.library, self.library_version, self.gpu, self.compute_capability])


def engine_key(bundle: BundleContent, precision: Precision, library: TensorRT, gpu: Gpu) -> EngineKey:
    """The key of a bundle's engine; the graphs' hashes come from the manifest, which were checked on opening."""
    return EngineKey(
        library=library.name,
        library_version=library.version,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        graphs_sha256=tuple(graph.entry.sha256 for graph in bundle.graphs(precision)),
        tiles=len(bundle.manifest.geometry.regions),
        flags=f"strongly typed, no TF32, level {OPTIMIZATION_LEVEL}, streams {MAX_AUX_STREAMS}, bank {BANK_ROWS}",
    )


def gpu_identity(open_library: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> Gpu:
    """The first GPU by the driver (libcuda), or `Gpu()` if there is none; makes no CUDA context."""
    try:
        cuda = open_library("libcuda.so.1")
    except OSError:
        return Gpu()
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    for call, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetName", (name, _NAME_BYTES, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), _CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), _CAPABILITY_MINOR, device)),
    ):
        if getattr(cuda, call)(*arguments) != _CUDA_SUCCESS:
            return Gpu()
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
