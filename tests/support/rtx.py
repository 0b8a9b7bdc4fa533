"""TensorRT-RTX on the CPU: its parser and builder, which need no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.engine.trt_library import library_from_kind
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import build_engine


def built_engine_bytes(graph: Path, tiles: int = 1) -> int:
    """The size of the engine that the product builds from a graph of the contract, the bank free in its rows."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    library = library_from_kind("tensorrt_rtx")
    return len(build_engine(graph, library, tiles=tiles, timing=b"", tracker=BuildTracker()).plan)
