"""The exported graph against torch on real photographs: what runs at the line is what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge.engine import Outputs
from edge.engine_ort import OrtEngine
from edge.errors import ProcunitError
from export.graph import InspectionGraph, output_names

TOLERANCE = 1e-3
"""The largest difference of any logit or distance, map or score, that an export may show."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest differences over `frames` photographs: of logits (maps included) and of distances (map included)."""

    frames: int
    worst_logit: float
    worst_anomaly: float


def parity_of_graph(
    graph: InspectionGraph, onnx_path: Path, bank: NDArray[np.float32], frames_u8: Sequence[NDArray[np.uint8]]
) -> Parity:
    """Run both on preprocessed photographs, tiles [N, H, W, C] each, and compare every output.

    Raises:
        ProcunitError: they differ by more than `TOLERANCE`.
    """
    engine = OrtEngine([onnx_path], bank)
    worst_logit = worst_anomaly = 0.0
    try:
        for tiles_u8 in frames_u8:
            found = engine.infer(tiles_u8)
            with torch.inference_mode():
                results = graph(torch.from_numpy(tiles_u8), torch.from_numpy(bank))
            wanted = {name: value.numpy() for name, value in zip(output_names(graph), results, strict=True)}
            worst_logit = max(worst_logit, _worst(found, wanted, ("logits", "defect_maps")))
            worst_anomaly = max(worst_anomaly, _worst(found, wanted, ("anomaly_map", "anomaly_score")))
    finally:
        engine.close()
    if not max(worst_logit, worst_anomaly) <= TOLERANCE:
        raise ProcunitError(
            f"the exported graph differs from torch: logits by {worst_logit:.2g}, distances by {worst_anomaly:.2g}; "
            f"{TOLERANCE:g} is allowed",
            where=str(onnx_path),
            remedy="Report this with the versions of torch, onnx and onnxruntime; the graph must not go to a line",
        )
    return Parity(len(frames_u8), worst_logit, worst_anomaly)


def _worst(found: Outputs, wanted: dict[str, NDArray[np.float32]], names: tuple[str, ...]) -> float:
    """The largest difference of the outputs named; infinite where one is no number."""
    differences = [np.abs(getattr(found, name) - wanted[name]).max() for name in names if name in wanted]
    return float(np.nan_to_num(np.max(differences, initial=0.0), nan=np.inf))
