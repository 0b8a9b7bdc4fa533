"""A program that prints the device on which the figures were measured, as a line of Markdown."""

from __future__ import annotations

import ctypes
import datetime
import platform
from importlib import metadata
from typing import get_args

from edge.engine.cuda import cuda_from_system
from edge.engine.cuda_graph import libcuda_from_system
from edge.engine.key import gpu_identity
from edge.engine.settings import EngineKind
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError


def device_line() -> str:
    """Date, device, driver and versions."""
    gpu, version = gpu_identity(), ctypes.c_int()
    libcuda_from_system().call("cuDriverGetVersion", ctypes.byref(version))
    cuda = cuda_from_system()
    with cuda.current():
        memory_gib = cuda.memory_bytes()[1] / 2**30
    shared = ", shared with the CPU" if cuda.integrated else ""
    cuda.close()
    return (
        f"Measured on {datetime.date.today()} by `tools/gpu_check.sh`: {gpu.name} (compute capability "
        f"{gpu.compute_capability}, {memory_gib:.0f} GiB{shared}), CUDA driver {version.value // 1000}."
        f"{version.value % 1000 // 10}, {', '.join([*_libraries(), 'pycuda ' + metadata.version('pycuda')])}, "
        f"{platform.machine()}, Python {platform.python_version()}."
    )


def _libraries() -> list[str]:
    found = []
    for kind in get_args(EngineKind):
        try:
            library = library_from_kind(kind)
        except ProcunitError:
            continue
        found.append(f"{library.name} {library.version}")
    return found


if __name__ == "__main__":
    print(device_line())
