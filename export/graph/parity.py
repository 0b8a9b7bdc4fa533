"""Parity check: the exported graphs in ONNX Runtime against the trained network in PyTorch, on real photographs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge.anomaly import folded_rows
from edge.bundle.manifest import Precision
from edge.engine.ort import OrtEngine
from edge.engine.protocol import Outputs, outputs_from_arrays
from edge.errors import ProcunitError
from export.graph.inspection_graph import InspectionGraph
from training.data.run_files import Difference

TOLERANCE = 1e-3
"""The largest allowed difference of any logit or distance, in maps and scores, of the FP32 graph."""


def reference_outputs(
    graph: InspectionGraph, bank: NDArray[np.float32], frames_u8: Sequence[NDArray[np.uint8]]
) -> list[Outputs]:
    """PyTorch's outputs for each photograph's tiles [N, H, W, C]."""
    rows = torch.from_numpy(folded_rows(bank))
    with torch.inference_mode():
        results = [graph(torch.from_numpy(tiles_u8), rows) for tiles_u8 in frames_u8]
    return [
        outputs_from_arrays({name: value.numpy() for name, value in zip(graph.outputs, values, strict=True)})
        for values in results
    ]


def difference_of_graphs(
    graphs: Sequence[Path],
    bank: NDArray[np.float32],
    frames_u8: Sequence[NDArray[np.uint8]],
    references: Sequence[Outputs],
) -> Difference:
    """The largest differences between ONNX Runtime and PyTorch; infinite if an output is NaN."""
    engine = OrtEngine(graphs, bank)
    logits = distances = 0.0
    try:
        for tiles_u8, wanted in zip(frames_u8, references, strict=True):
            found = engine.infer(tiles_u8)
            logits = max(logits, _largest_difference(found, wanted, ("logits", "defect_maps")))
            distances = max(distances, _largest_difference(found, wanted, ("anomaly_map", "anomaly_score")))
    finally:
        engine.close()
    return Difference(logits=logits, distances=distances)


def check_difference(difference: Difference, precision: Precision, where: Path) -> None:
    """Check that the FP32 graph, the reference for all others, is within `TOLERANCE`; others only need finite outputs.

    Raises:
        ProcunitError: the difference is too large.
    """
    allowed = TOLERANCE if precision == "fp32" else sys.float_info.max
    if not max(difference.logits, difference.distances) <= allowed:
        raise ProcunitError(
            f"the exported graph differs from torch: logits by {difference.logits:.2g}, distances by "
            f"{difference.distances:.2g}; {allowed:.2g} is allowed",
            where=str(where),
            remedy="Report this with the versions of torch, onnx and onnxruntime; the graph must not go to a line",
        )


def _largest_difference(found: Outputs, wanted: Outputs, names: tuple[str, ...]) -> float:
    differences = [np.abs(getattr(found, name) - getattr(wanted, name)).max(initial=0.0) for name in names]
    return float(np.nan_to_num(np.max(differences), nan=np.inf))
