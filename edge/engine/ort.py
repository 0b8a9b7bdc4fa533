"""The default engine: ONNX Runtime on the CPU; the bank is bound once, not per part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.anomaly import folded_rows
from edge.bundle.onnx_walk import check_graph
from edge.engine.protocol import EngineError, Outputs, StoredFile, outputs_from_arrays
from edge.errors import ProcunitError


class OrtEngine:
    """ONNX Runtime with a bundle's graphs (one fused, or a classifier and an extractor) and the bank as a bound input.

    Raises:
        ProcunitError: a graph does not fit the contract, or the bank does not fit the graph.
    """

    def __init__(self, graphs: Sequence[StoredFile], bank: NDArray[np.float32], *, threads: int = 0) -> None:
        self._where = str(graphs[-1])
        sessions = [session_from_graph(graph, threads) for graph in graphs]
        inputs = {node.name: node.shape for session in sessions for node in session.get_inputs()}
        outputs = {node.name for session in sessions for node in session.get_outputs()}
        if set(inputs) != {"image", "bank"} or not {"anomaly_map", "anomaly_score"} <= outputs:
            raise ProcunitError("the graph does not have the bundle's inputs and outputs", where=self._where)
        self._runs = [(s, [i.name for i in s.get_inputs()], [o.name for o in s.get_outputs()]) for s in sessions]
        if len(inputs["bank"]) != 2 or not isinstance(inputs["bank"][1], int):
            raise ProcunitError(
                f"the graph's input `bank` is {inputs['bank']}, its number of features is not fixed",
                where=self._where,
                remedy="Have the bundle exported again",
            )
        self._features = inputs["bank"][1] - 2
        self._options, self._interrupted = ort.RunOptions(), False
        self.swap_bank(bank)

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C]; see `Engine`."""
        if self._bank is None:
            raise EngineError("the engine is closed")
        feeds = {"image": ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tiles_u8)), "bank": self._bank}
        arrays: dict[str, NDArray[np.float32]] = {}
        for session, inputs, outputs in self._runs:
            try:
                values = session.run_with_ort_values(outputs, {name: feeds[name] for name in inputs}, self._options)
                arrays |= {name: np.asarray(value.numpy()) for name, value in zip(outputs, values, strict=True)}
            except Exception as error:  # onnxruntime's classes share no base
                reason = "it was interrupted" if self._interrupted else str(error)
                raise EngineError(f"ONNX Runtime failed: {reason}") from error
        return outputs_from_arrays(arrays)

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Use another bank [M, D + 1]; see `Engine`."""
        features = bank.shape[1] - 1 if bank.ndim == 2 else "no"
        if features != self._features:
            raise ProcunitError(
                f"the bank has {features} features per row, the graph needs {self._features}", where=self._where
            )
        self._bank: ort.OrtValue | None = ort.OrtValue.ortvalue_from_numpy(folded_rows(bank))

    def interrupt(self) -> None:
        """End a running inference before its next operator, and every later one; any thread may call."""
        self._interrupted = self._options.terminate = True

    def close(self) -> None:
        """Release the sessions and the bank; a second call does nothing."""
        self._runs, self._bank = [], None


def session_from_graph(graph: StoredFile, threads: int) -> ort.InferenceSession:
    """Load a graph for the CPU; 0 `threads` means one per core. ONNX Runtime gets bytes, and opens no file itself.

    Raises:
        ProcunitError: the file cannot be read, is no graph that a bundle may have, or ONNX Runtime cannot load it.
    """
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise ProcunitError(f"the graph cannot be read: {error.strerror}", where=str(graph)) from error
    check_graph(data, str(graph))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no base
        raise ProcunitError(f"ONNX Runtime cannot load the graph: {error}", where=str(graph)) from error
