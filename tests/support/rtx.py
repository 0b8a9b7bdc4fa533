"""TensorRT for RTX without a GPU: its parser and builder run on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.engine.trt_library import library_from_kind
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import build_engine


def built_engine_bytes(graph: Path, tiles: int = 1) -> int:
    """Build an engine from a graph of the contract, as the product does; returns its size in bytes."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    library = library_from_kind("tensorrt_rtx")
    return len(build_engine(graph, library, tiles=tiles, timing=b"", tracker=BuildTracker()).plan)
