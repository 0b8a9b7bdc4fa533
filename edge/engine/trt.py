"""The engine for devices with a GPU: TensorRT plans, memory allocated once, all work launched as one CUDA graph.

The bank's memory has space for the most rows that the engine was built for. Another bank is copied into it between two
parts; no work is running then, because `infer` waits for its results.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from traceback import clear_frames

import numpy as np
from numpy.typing import NDArray

from edge.anomaly import folded_rows
from edge.engine.cuda import Buffer, Cuda
from edge.engine.cuda_graph import CudaCallError, CudaGraph
from edge.engine.protocol import EngineError, EngineLostError, Outputs, StoredFile, outputs_from_arrays
from edge.engine.trt_library import TensorRT
from edge.engine.trt_plans import BANK_INPUT, IMAGE_INPUT, check_tensors, engine_from_plan, largest_bank, output_shapes
from edge.engine.trt_types import ICudaEngine, IExecutionContext
from edge.errors import ProcunitError
from edge.geometry import Geometry

_ALIGNMENT = 256
"""Bytes to which TensorRT wants the addresses of tensors aligned."""

_logger = logging.getLogger(__name__)


class _RefusedError(Exception):
    """TensorRT did not put its work onto the stream."""


class TrtEngine:
    """A fused engine, or classifier and extractor, with the bank in GPU memory; see `Engine`.

    Created, used and closed in the thread that holds `cuda`; it closes `cuda` too, even if the constructor fails.
    `geometry` and `types` are the bundle's: the engine must be built for its tiles and its number of defect types.

    Raises:
        UnfitPlanError: a plan is damaged, of another version, or for another bundle.
        ProcunitError: the bank does not fit, or the GPU has too little memory.
        EngineLostError: the GPU failed.
    """

    def __init__(
        self,
        plans: Sequence[StoredFile],
        bank: NDArray[np.float32],
        *,
        geometry: Geometry,
        types: int,
        library: TensorRT,
        cuda: Cuda,
    ) -> None:
        self._library, self._cuda = library, cuda
        self._where = str(plans[-1])
        self._image_shape = (
            len(geometry.regions),
            geometry.input_height_px,
            geometry.input_width_px,
            geometry.channels,
        )
        self._engines: list[ICudaEngine] = []
        self._contexts: list[tuple[IExecutionContext, tuple[str, ...]]] = []
        self._views: dict[str, NDArray[np.float32]] = {}
        self._graph: CudaGraph | None = None
        self._capturable = True
        self._bank_rows = 0
        self._usable = False
        try:
            with cuda.current():
                rows = folded_rows(bank)
                self._load(plans, types, rows)
                self._set_bank(rows)
        except BaseException as error:
            _clear_traceback_frames(error)
            self.close()
            if isinstance(error, EngineError) and not isinstance(error, EngineLostError):
                remedy = "End other programs on the GPU, choose fp16 or int8, or inspect fewer or smaller regions"
                what = f"the engine cannot be set up on the GPU: {error}"
                raise ProcunitError(what, where=self._where, remedy=remedy) from error
            raise

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C], as copies; see `Engine`."""
        if tiles_u8.shape != self._image_shape or tiles_u8.dtype != np.uint8:
            raise EngineError(f"the engine takes uint8 {self._image_shape}, not {tiles_u8.dtype} {tiles_u8.shape}")
        self._check_usable()
        with self._cuda.current():
            np.copyto(self._image.host.reshape(self._image_shape), tiles_u8)
            self._cuda.upload(self._image)
            self._launch()
            self._cuda.download(self._outputs)
            self._cuda.synchronise()
        return outputs_from_arrays({name: view.copy() for name, view in self._views.items()})

    def run_resident(self, times: int) -> None:
        """Run on the image that was copied in last, without copying results: for benchmarks of the network alone.

        Raises:
            EngineError: it failed.
        """
        self._check_usable()
        with self._cuda.current():
            for _ in range(times):
                self._launch()
            self._cuda.synchronise()

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Use another bank [M, D + 1]; see `Engine`.

        Raises:
            EngineLostError: the copy failed half-way; the engine has to be opened again.
        """
        rows = folded_rows(bank)
        self._check_bank(rows)
        self._check_usable()
        self._usable = False
        try:
            with self._cuda.current():
                self._set_bank(rows)
        except (EngineError, ProcunitError) as error:
            raise EngineLostError(f"swapping the bank failed half-way: {error}") from error

    def close(self) -> None:
        """Release graph, TensorRT's objects, memory and GPU, in this order; a second call does nothing."""
        self._usable = False
        if self._cuda.closed:
            return
        with suppress(EngineError), self._cuda.current():
            try:
                self._drop_graph()
            except CudaCallError as error:
                _logger.warning("the engine's graph could not be released: %s", error)
            self._contexts.clear()
            self._engines.clear()
        self._contexts.clear()
        self._engines.clear()
        self._views.clear()
        self._cuda.close()

    def _check_usable(self) -> None:
        if not self._usable:
            raise EngineLostError("the engine failed before and has to be opened again")

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()

    def _load(self, plans: Sequence[StoredFile], types: int, rows: NDArray[np.float32]) -> None:
        self._engines += [engine_from_plan(plan, self._library) for plan in plans]
        names = check_tensors(self._engines, self._library, self._image_shape, types, self._where)
        for engine, tensors in zip(self._engines, names, strict=True):
            context = engine.create_execution_context()
            if context is None:
                raise EngineError(f"no memory for the engine's activations{self._library.recent_errors_suffix()}")
            self._contexts.append((context, tensors))
        self._capacity_rows, self._columns = largest_bank(self._engines)
        self._check_bank(rows)
        self._image = self._cuda.buffer(math.prod(self._image_shape), mapped=self._cuda.integrated)
        self._bank = self._cuda.device_memory(self._capacity_rows * self._columns * np.dtype(np.float32).itemsize)
        self._set_input_shape(IMAGE_INPUT, self._image_shape)
        self._set_input_shape(BANK_INPUT, rows.shape)
        self._allocate_outputs(types)

    def _allocate_outputs(self, types: int) -> None:
        """Allocate one block for all outputs, so that one copy transfers them."""
        shapes = output_shapes(self._contexts, self._image_shape[0], types, self._where)
        offsets, size_bytes = {}, 0
        for name, shape in shapes.items():
            offsets[name] = size_bytes
            used = math.prod(shape) * np.dtype(np.float32).itemsize
            size_bytes += -(-used // _ALIGNMENT) * _ALIGNMENT
        self._outputs: Buffer = self._cuda.buffer(size_bytes, mapped=False)
        self._views = {
            name: np.frombuffer(self._outputs.host, np.float32, math.prod(shape), offsets[name]).reshape(shape)
            for name, shape in shapes.items()
        }
        addresses = {IMAGE_INPUT: self._image.address, BANK_INPUT: self._bank}
        addresses |= {name: self._outputs.address + offset for name, offset in offsets.items()}
        for context, tensors in self._contexts:
            for name in tensors:
                if not context.set_tensor_address(name, addresses[name]):
                    raise EngineError(f"TensorRT refused the memory for {name!r}{self._library.recent_errors_suffix()}")

    def _check_bank(self, rows: NDArray[np.float32]) -> None:
        count, columns = rows.shape
        if columns != self._columns:
            raise ProcunitError(
                f"the bank has {columns - 2} features per row, the engine needs {self._columns - 2}", where=self._where
            )
        if not 1 <= count <= self._capacity_rows:
            raise ProcunitError(
                f"the bank has {count} rows, the engine was built for 1 to {self._capacity_rows}", where=self._where
            )

    def _set_bank(self, rows: NDArray[np.float32]) -> None:
        """Copy the folded rows to the GPU; a captured graph stays valid while the number of rows is the same."""
        self._cuda.write(self._bank, rows)
        if len(rows) != self._bank_rows:
            self._drop_graph()
            self._set_input_shape(BANK_INPUT, rows.shape)
            self._bank_rows = len(rows)
            self._warm_up()
        self._usable = True

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        contexts = (context for context, tensors in self._contexts if name in tensors)
        if not all(context.set_input_shape(name, shape) for context in contexts):
            what = f"the engine was not built for {name!r} of {shape}{self._library.recent_errors_suffix()}"
            raise ProcunitError(what, where=self._where)

    def _warm_up(self) -> None:
        """Run once, as TensorRT does some setup in the first run at new shapes; then capture the work."""
        self._run_without_graph()
        self._cuda.synchronise()
        if not self._capturable:
            return
        try:
            self._graph = self._cuda.captured(self._enqueue)
        except (CudaCallError, _RefusedError) as error:
            self._capturable = False
            _logger.warning("the engine runs without a CUDA graph, a little slower: %s", error)
            self._run_without_graph()
            self._cuda.synchronise()

    def _launch(self) -> None:
        if self._graph is None:
            self._run_without_graph()
        else:
            self._graph.launch()

    def _run_without_graph(self) -> None:
        try:
            self._enqueue()
        except _RefusedError as error:
            raise self._cuda.failure(str(error)) from None

    def _enqueue(self) -> None:
        if not all(context.execute_async_v3(self._cuda.stream) for context, _ in self._contexts):
            raise _RefusedError(f"{self._library.name} did not run{self._library.recent_errors_suffix()}")


def _clear_traceback_frames(error: BaseException | None) -> None:
    """Drop the references in the frames of an error, as TensorRT's objects must be freed before the GPU is closed."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__
