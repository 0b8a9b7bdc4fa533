"""The embedded default engine: ONNX Runtime on the CPU, the bank bound once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.engine import EngineError, Outputs
from edge.errors import ProcunitError

_OUTPUTS_HEAD = ("logits", "defect_maps")
_OUTPUTS_ANOMALY = ("anomaly_map", "anomaly_score")


class OrtEngine:
    """ONNX Runtime session over `model.onnx` with the bank as a bound input.

    Raises:
        ProcunitError: the file is no graph of the contract, or the bank does not fit it.
    """

    def __init__(self, model: Path, bank: NDArray[np.float32], *, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes share no base
            raise ProcunitError(f"ONNX Runtime cannot load the graph: {error}", where=str(model)) from error
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        if set(inputs) != {"image", "bank"} or not set(_OUTPUTS_ANOMALY) <= set(self._outputs):
            raise ProcunitError("the graph does not have the bundle's inputs and outputs", where=str(model))
        if inputs["bank"].shape[1] != bank.shape[1]:
            raise ProcunitError(
                f"the bank has {bank.shape[1]} features a row, the graph needs {inputs['bank'].shape[1]}",
                where=str(model),
            )
        self._has_head = set(_OUTPUTS_HEAD) <= set(self._outputs)
        self._bank = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(bank))

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C]; see `Engine`."""
        feeds = {"image": ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tiles_u8)), "bank": self._bank}
        try:
            results = self._session.run_with_ort_values(self._outputs, feeds)
        except Exception as error:  # onnxruntime's classes share no base
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        named = {name: np.asarray(value.numpy()) for name, value in zip(self._outputs, results, strict=True)}
        anomaly_map = named["anomaly_map"]
        tiles, height, width = anomaly_map.shape
        empty_maps = np.zeros((tiles, 0, height, width), np.float32)
        return Outputs(
            logits=named["logits"] if self._has_head else np.zeros((tiles, 0), np.float32),
            defect_maps=named["defect_maps"] if self._has_head else empty_maps,
            anomaly_map=anomaly_map,
            anomaly_score=named["anomaly_score"],
        )

    def close(self) -> None:
        """Drop the session and the bank."""
        del self._session, self._bank
