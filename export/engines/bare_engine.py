"""The bare backbone of `export.engines.bare_graph` on a runtime: the baseline for a bundle's engine.

Copies, launch and synchronisation are the same as in `edge.engine.trt`, so that only the network differs.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from pathlib import Path
from traceback import clear_frames
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.engine.cuda import Buffer, Cuda, cuda_from_system
from edge.engine.cuda_graph import CudaGraph
from edge.engine.protocol import EngineError
from edge.engine.trt_library import TensorRT
from edge.engine.trt_plans import IMAGE_INPUT, engine_from_plan
from edge.engine.trt_types import ICudaEngine, IExecutionContext
from edge.errors import ProcunitError
from export.engines.build import GraphBuild
from export.engines.runtimes import JobContext

BARE_OUTPUT = "logits"
HOW_TO_MAKE_BARE_GRAPH = "Make one where the offline extra is installed: procunit engine bare BUNDLE --out bare.onnx"


class BareEngine(Protocol):
    """Runs the bare backbone; used by one thread only."""

    def infer(self, tiles_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits [N, classes] of tiles [N, H, W, C]."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class BareOrtEngine:
    """The bare backbone in ONNX Runtime on the CPU."""

    def __init__(self, graph: Path, threads: int) -> None:
        import onnxruntime as ort  # noqa: PLC0415  (a Jetson may lack it)

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes share no base
            what = f"ONNX Runtime cannot load the graph: {error}"
            raise ProcunitError(what, where=str(graph), remedy=HOW_TO_MAKE_BARE_GRAPH) from error
        if [i.name for i in self._session.get_inputs()] != [IMAGE_INPUT]:
            raise ProcunitError("this graph is not a bare backbone", where=str(graph), remedy=HOW_TO_MAKE_BARE_GRAPH)

    def infer(self, tiles_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits [N, classes]; see `BareEngine`."""
        try:
            return np.asarray(self._session.run([BARE_OUTPUT], {IMAGE_INPUT: tiles_u8})[0], np.float32)
        except Exception as error:  # onnxruntime's classes share no base
            raise EngineError(f"ONNX Runtime failed on the bare backbone: {error}") from error

    def close(self) -> None:
        """Drop the session."""
        del self._session


class BareTrtEngine:
    """The bare backbone on the GPU, launched as one CUDA graph; made, used and closed in the thread that holds `cuda`.

    Raises:
        ProcunitError: the plan is not a bare backbone for these tiles.
        EngineError: the GPU failed or has too little memory.
    """

    _image: Buffer
    _output: Buffer
    _output_shape: tuple[int, ...]

    def __init__(self, plan: Path, image_shape: tuple[int, ...], library: TensorRT, cuda: Cuda) -> None:
        self._cuda, self._library, self._image_shape = cuda, library, image_shape
        self._engine: ICudaEngine | None = None
        self._context: IExecutionContext | None = None
        self._graph: CudaGraph | None = None
        try:
            with cuda.current():
                self._load(plan)
                self._enqueue()
                cuda.synchronise()
                self._graph = cuda.captured(self._enqueue)
        except BaseException as error:
            clear_frames(error.__traceback__)  # frees TensorRT objects before the GPU is released
            self.close()
            raise

    def infer(self, tiles_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits [N, classes]; see `BareEngine`."""
        with self._cuda.current():
            np.copyto(self._image.host.reshape(self._image_shape), tiles_u8)
            self._cuda.upload(self._image)
            self._launch()
            self._cuda.download(self._output)
            self._cuda.synchronise()
        return np.frombuffer(self._output.host, np.float32).reshape(self._output_shape).copy()

    def run_resident(self, times: int) -> None:
        """Run on the last uploaded image, without copying the outputs back."""
        with self._cuda.current():
            for _ in range(times):
                self._launch()
            self._cuda.synchronise()

    def close(self) -> None:
        """Release the graph, TensorRT's objects, the memory and the GPU, in this order; a second call does nothing."""
        with suppress(EngineError), self._cuda.current():
            graph, self._graph = self._graph, None
            if graph is not None:
                graph.close()
            self._context = None
            self._engine = None
        self._cuda.close()

    def _load(self, plan: Path) -> None:
        engine = self._engine = engine_from_plan(plan, self._library)
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"too little GPU memory for the bare backbone's activations{self._library.recent_errors_suffix()}"
            )
        if names != {IMAGE_INPUT, BARE_OUTPUT} or not self._context.set_input_shape(IMAGE_INPUT, self._image_shape):
            raise ProcunitError("not a bare backbone for this bundle's tiles", remedy=HOW_TO_MAKE_BARE_GRAPH)
        dims = self._context.get_tensor_shape(BARE_OUTPUT)
        self._output_shape = tuple(dims[axis] for axis in range(len(dims)))
        self._image = self._cuda.buffer(math.prod(self._image_shape), mapped=self._cuda.integrated)
        size_bytes = math.prod(self._output_shape) * np.dtype(np.float32).itemsize
        self._output = self._cuda.buffer(size_bytes, mapped=False)
        self._context.set_tensor_address(IMAGE_INPUT, self._image.address)
        self._context.set_tensor_address(BARE_OUTPUT, self._output.address)

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.launch()

    def _enqueue(self) -> None:
        if self._context is None or not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(
                f"{self._library.name} did not run the bare backbone{self._library.recent_errors_suffix()}"
            )


def bare_trt_engine(graph: Path, image_shape: tuple[int, ...], library: TensorRT, job: JobContext) -> BareTrtEngine:
    """Build the bare backbone with the settings of the bundle's engine, and load it; the plan is not kept.

    Raises:
        ProcunitError: it cannot be built or is not a bare backbone.
        BuildCancelledError: a stop was requested.
        EngineError: the GPU failed or has too little memory.
    """
    built = GraphBuild(graph, library, image_shape[0], b"").watch(job.on_progress, job.wait_for_stop)
    with tempfile.TemporaryDirectory() as directory:
        plan = Path(directory) / "bare.plan"
        plan.write_bytes(built.plan)
        return BareTrtEngine(plan, image_shape, library, cuda_from_system())
