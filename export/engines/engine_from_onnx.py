"""ONNX graph -> serialized TensorRT engine, on the device that will run it; torch-free.

Always strongly typed: every precision is the graph's own, so there is no precision flag and no calibrator, and what
changed between TensorRT 10.3 and 11 is not used. TF32, which the builder allows by default, is cleared: the search
must not be rounded to ten bits.
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
from export.engines.build_monitor import BuildTracker, monitor_from_tracker

MAX_GRAPH_BYTES = 2 << 30
"""What a protobuf can hold."""
OPSETS = "17 or 18"

_MEMINFO = Path("/proc/meminfo")
_MEMORY_SHARE = 0.5
"""Of the memory that is free now, what the builder may take for a kernel: on a Jetson the rest of the system lives on
the same memory, and the builder's default is all of it."""

_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|insufficient (memory|workspace)", re.IGNORECASE)
_NO_GPU = re.compile(r"CUDA initialization failure|cudaError 35|no CUDA-capable device", re.IGNORECASE)
_NO_KERNEL = re.compile(r"Could not find any implementation for node (\S+)")


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, and the kernel times that the next build on this device starts from."""

    plan: bytes
    timing: bytes


def build_engine(graph: Path, library: TensorRT, *, tiles: int, timing: bytes, tracker: BuildTracker) -> BuiltEngine:
    """Build one graph of the bundle's contract for `tiles` tiles and a bank of any size that the product allows.

    Raises:
        ProcunitError: the graph cannot be built here; the text says why and what to do.
        BuildCancelledError: the tracker's owner cancelled it.
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
    _use_timing(config, timing)
    monitor = monitor_from_tracker(trt, tracker)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if tracker.cancelled:
        raise BuildCancelledError
    if plan is None:
        raise _failure(graph, library)
    return BuiltEngine(bytes(memoryview(plan)), _timing_from_config(config))


def _builder(graph: Path, library: TensorRT) -> Any:
    trt: Any = library.module
    try:
        return trt.Builder(library.logger)
    except (RuntimeError, TypeError) as error:  # TypeError is how the bindings say that the library gave no builder
        raise _failure(graph, library) from error


def _parse(graph: Path, library: TensorRT, network: Any) -> None:
    trt: Any = library.module
    try:
        if graph.stat().st_size > MAX_GRAPH_BYTES:
            raise ProcunitError(f"larger than {MAX_GRAPH_BYTES} bytes", where=str(graph))
        data = graph.read_bytes()
    except OSError as error:
        raise ProcunitError(f"the graph cannot be read: {error.strerror}", where=str(graph)) from error
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(data):
        raise _unparsed(graph, library, [parser.get_error(index) for index in range(parser.num_errors)])
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    if "image" not in inputs or not inputs <= {"image", "bank"} or network.num_outputs == 0:
        raise ProcunitError(
            f"no graph of a bundle: its inputs are {', '.join(sorted(inputs)) or 'none'}, not image and bank",
            where=str(graph),
            remedy="Copy the bundle again, or export it again",
        )


def _unparsed(graph: Path, library: TensorRT, errors: Sequence[Any]) -> ProcunitError:
    """What the parser refused: the file as a whole, or one node of it."""
    error = errors[0] if errors else None
    if error is None or "DESERIALIZE" in str(error.code()):
        return ProcunitError(
            "no whole ONNX file: truncated or changed", where=str(graph), remedy="Copy the bundle again"
        )
    said = " ".join(error.desc().split())
    node = f"the node {error.node_name() or error.node()} ({error.node_operator()})" if error.node_operator() else "it"
    return ProcunitError(
        f"{library.name} {library.version} does not take {node}: {said[:300]}",
        where=str(graph),
        remedy=f"Export the bundle again with this version of Procunit (ONNX opset {OPSETS}), choose another "
        "precision, or set engine.kind to ort until then",
    )


def _profile(graph: Path, builder: Any, network: Any, tiles: int) -> Any:
    """The image fixed to the bundle's tiles, the bank free in its rows; the engine chooses kernels for the usual."""
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        shape = tuple(tensor.shape)
        if tensor.name == "bank":
            profile.set_shape("bank", *((rows, shape[1]) for rows in BANK_ROWS))
            continue
        if shape[0] not in (-1, tiles):
            raise ProcunitError(
                f"the graph takes {shape[0]} tiles, the bundle's geometry gives {tiles}",
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
    """What the kernel says can be had without swapping (proc(5)); None where it does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None


def _use_timing(config: Any, timing: bytes) -> None:
    """Start from the kernel times of an earlier build; a cache of another version or GPU is left unused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT for RTX has no use for it and says so each time
        cache = config.create_timing_cache(timing)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _timing_from_config(config: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.get_timing_cache()
        return bytes(memoryview(cache.serialize())) if cache is not None else b""


def _failure(graph: Path, library: TensorRT) -> ProcunitError:
    """The builder gave nothing: its own words, and what to do about the kinds of failure that are known."""
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
            f"{name} finds no GPU that it can use",
            where=where,
            remedy="Check the driver with nvidia-smi (on a Jetson: that the JetPack release fits) and that this user "
            "may open the GPU's device files",
        )
    no_kernel = _NO_KERNEL.search(text)
    if no_kernel:
        return ProcunitError(
            f"{name} has no kernel on this GPU for the node {no_kernel[1]}",
            where=where,
            remedy="Choose another precision, or free memory: a kernel may need more than there is",
        )
    return ProcunitError(
        f"{name} cannot build the engine: {messages[-1] if messages else 'it gave no reason'}",
        where=where,
        remedy="Choose another precision, or set engine.kind to ort; send the log to support",
    )
