"""Builds a serialized TensorRT engine from an ONNX graph, on the device that will run it; needs no torch.

The network is strongly typed: the graph defines every precision, so there is no precision flag and no calibrator, and
nothing is used that changed between TensorRT 10.3 and 11. TF32, which the builder allows by default, is switched off:
it would round the nearest-neighbour search to ten bits.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.engine.build_progress import BuildCancelledError
from edge.engine.key import BANK_ROWS, MAX_AUX_STREAMS, OPTIMIZATION_LEVEL
from edge.engine.trt_library import TensorRT
from edge.errors import ProcunitError
from edge.system.files import bytes_from_file
from export.engines.build_monitor import BuildTracker, monitor_from_tracker

MAX_GRAPH_BYTES = 2 << 30
"""The size limit of a protobuf file."""
OPSETS = "17 or 18"

_MEMINFO = Path("/proc/meminfo")
_MEMORY_SHARE = 0.5
"""Share of the free memory that the builder may use as workspace of a kernel. Its default is all of it, but on a Jetson
the rest of the system needs the same memory."""

_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|insufficient (memory|workspace)", re.IGNORECASE)
_NO_GPU = re.compile(r"CUDA initialization failure|cudaError 35|no CUDA-capable device", re.IGNORECASE)
_NO_KERNEL = re.compile(r"Could not find any implementation for node (\S+)")


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, and the timing cache that speeds up the next build on this device."""

    plan: bytes
    timing: bytes


def build_engine(graph: Path, library: TensorRT, *, tiles: int, timing: bytes, tracker: BuildTracker) -> BuiltEngine:
    """Build one of the bundle's graphs for `tiles` tiles and a bank of any allowed size.

    `timing` is the timing cache of an earlier build, or empty.

    Raises:
        ProcunitError: the graph cannot be built here; the message contains the reason and what to do.
        BuildCancelledError: the tracker was cancelled.
    """
    library.clear_messages()
    trt: Any = library.module
    builder = _builder(graph, library)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(graph, library, network)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    config.max_aux_streams = MAX_AUX_STREAMS
    _limit_workspace(trt, config)
    config.add_optimization_profile(_profile(graph, builder, network, tiles))
    _use_timing_cache(config, timing)
    monitor = monitor_from_tracker(trt, tracker)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if tracker.cancelled:
        raise BuildCancelledError
    if plan is None:
        raise _build_error(graph, library)
    return BuiltEngine(bytes(memoryview(plan)), _timing_cache_from_config(config))


def _builder(graph: Path, library: TensorRT) -> Any:
    trt: Any = library.module
    try:
        return trt.Builder(library.logger)
    except (RuntimeError, TypeError) as error:  # the bindings raise TypeError if the library returned no builder
        raise _build_error(graph, library) from error


def _parse(graph: Path, library: TensorRT, network: Any) -> None:
    trt: Any = library.module
    data = bytes_from_file(graph, MAX_GRAPH_BYTES)
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(data):
        raise _parse_error(graph, library, [parser.get_error(index) for index in range(parser.num_errors)])
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    if "image" not in inputs or not inputs <= {"image", "bank"} or network.num_outputs == 0:
        raise ProcunitError(
            f"not a bundle's graph: its inputs are {', '.join(sorted(inputs)) or 'none'}, not image and bank",
            where=str(graph),
            remedy="Copy the bundle again, or export it again",
        )


def _parse_error(graph: Path, library: TensorRT, errors: Sequence[Any]) -> ProcunitError:
    """The error for what the parser refused: the whole file, or one node."""
    error = errors[0] if errors else None
    if error is None or "DESERIALIZE" in str(error.code()):
        return ProcunitError(
            "not a complete ONNX file: it is truncated or changed", where=str(graph), remedy="Copy the bundle again"
        )
    description = " ".join(error.desc().split())
    node = f"the node {error.node_name() or error.node()} ({error.node_operator()})" if error.node_operator() else "it"
    return ProcunitError(
        f"{library.name} {library.version} does not support {node}: {description[:300]}",
        where=str(graph),
        remedy=f"Export the bundle again with this version of Procunit (ONNX opset {OPSETS}), choose another "
        "precision, or set engine.kind to ort until then",
    )


def _profile(graph: Path, builder: Any, network: Any, tiles: int) -> Any:
    """The optimization profile: a fixed number of tiles; for the bank's rows a minimum, usual and maximum number."""
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        shape = tuple(tensor.shape)
        if tensor.name == "bank":
            profile.set_shape("bank", *((rows, shape[1]) for rows in BANK_ROWS))
            continue
        if shape[0] not in (-1, tiles):
            raise ProcunitError(
                f"the graph takes {shape[0]} tiles, but the bundle's geometry gives {tiles}",
                where=str(graph),
                remedy="Export and bundle the run again",
            )
        profile.set_shape(tensor.name, *[(tiles, *shape[1:])] * 3)
    return profile


def _limit_workspace(trt: Any, config: Any) -> None:
    free_bytes = available_memory_bytes()
    if free_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        limit_bytes = min(config.get_memory_pool_limit(pool), int(free_bytes * _MEMORY_SHARE))
        config.set_memory_pool_limit(pool, limit_bytes)


def available_memory_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Memory available without swapping (MemAvailable, proc(5)); None if the kernel does not report it."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None


def _use_timing_cache(config: Any, timing: bytes) -> None:
    """Use the timing cache of an earlier build, or an empty one if it is of another version or GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT for RTX ignores it and warns every time
        cache = config.create_timing_cache(timing)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _timing_cache_from_config(config: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.get_timing_cache()
        return bytes(memoryview(cache.serialize())) if cache is not None else b""


def _build_error(graph: Path, library: TensorRT) -> ProcunitError:
    """The error for a failed build: the library's message, and what to do about known kinds of failure."""
    messages = library.messages()
    text = " / ".join(messages)
    name = f"{library.name} {library.version}"
    where = str(graph)
    if _OUT_OF_MEMORY.search(text):
        return ProcunitError(
            f"{name} ran out of memory while building the engine",
            where=where,
            remedy="Stop other programs on the device (a desktop too), add swap, or export with fewer tiles or a "
            "smaller input",
        )
    if _NO_GPU.search(text):
        return ProcunitError(
            f"{name} finds no usable GPU",
            where=where,
            remedy="Check the driver with nvidia-smi (on a Jetson: that the JetPack release fits) and that this user "
            "may open the GPU's device files",
        )
    no_kernel = _NO_KERNEL.search(text)
    if no_kernel:
        return ProcunitError(
            f"{name} has no kernel on this GPU for the node {no_kernel[1]}",
            where=where,
            remedy="Choose another precision, or free memory: a kernel may need more than is available",
        )
    return ProcunitError(
        f"{name} cannot build the engine: {messages[-1] if messages else 'no reason was reported'}",
        where=where,
        remedy="Choose another precision, or set engine.kind to ort; send the log to support",
    )
