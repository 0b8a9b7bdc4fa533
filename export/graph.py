"""Checkpoint to ONNX: both scorers in one graph, or each in its own, to the bundle's contract.

The bank is an input, so that it can grow or be swapped without building an engine. The Cast comes first, because
TensorRT does not transpose uint8. Whatever the trunk computes in, the features that are searched for become FP32 before
they are averaged and centred, and the search is FP32: half precision ruins its distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.errors import ProcunitError
from edge.preprocess import Geometry
from training.model import DefectHead, InspectionModel, Taps, head_features, patch_features

OPSET = 18
ANOMALOUS_PATCHES = 10
"""A tile's anomaly score is the mean distance of this many of its farthest patches; chosen by cross-validation."""
HEAD_OUTPUTS, ANOMALY_OUTPUTS = ("logits", "defect_maps"), ("anomaly_map", "anomaly_score")


@dataclass(frozen=True, slots=True)
class PatchScale:
    """What patches are centred and divided by before the search: their mean [D] and `spread` [D].

    The spread is each feature's deviation times the root of D, so that distances are about 1 and no feature outweighs
    the others.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    def apply(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches [n, D] as the bank's rows are stored."""
        return (patches - self.mean) / self.spread


class Nearest(NamedTuple):
    """For each tile: `anomaly_map` [N, h, w], the distance of each patch to the bank, and `anomaly_score` [N]."""

    anomaly_map: Tensor
    anomaly_score: Tensor


class ClassifierGraph(nn.Module):
    """`image` uint8 [N, H, W, C] to the head's outputs."""

    outputs: tuple[str, ...] = HEAD_OUTPUTS

    def __init__(self, model: InspectionModel) -> None:
        super().__init__()
        if model.head is None:
            raise ProcunitError(
                "no defect type was taught: there is no classifier to separate", remedy="Export without --separate"
            )
        self.model, self.head = model, model.head
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return _head_outputs(self.head, self.model.taps(image))


class ExtractorGraph(nn.Module):
    """`image` uint8 [N, H, W, C] and `bank` [M, D] to the anomaly's outputs."""

    outputs: tuple[str, ...] = ANOMALY_OUTPUTS
    mean: Tensor
    spread: Tensor

    def __init__(self, model: InspectionModel, scale: PatchScale) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.from_numpy(scale.mean).view(1, -1, 1, 1))
        self.register_buffer("spread", torch.from_numpy(scale.spread).view(1, -1, 1, 1))
        self.eval()

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return tuple(search(self.scaled_patches(self.model.taps(image)), bank))

    def scaled_patches(self, taps: Taps) -> Tensor:
        """The patches [N, D, h, w] that are searched for in the bank, FP32."""
        return (patch_features(Taps(*(tap.float() for tap in taps))) - self.mean) / self.spread


class InspectionGraph(ExtractorGraph):
    """`image` uint8 [N, H, W, C] and `bank` [M, D] to the contract's outputs; without types, the anomaly's alone."""

    def __init__(self, model: InspectionModel, scale: PatchScale) -> None:
        super().__init__(model, scale)
        self.outputs = ANOMALY_OUTPUTS if model.head is None else HEAD_OUTPUTS + ANOMALY_OUTPUTS

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        taps = self.model.taps(image)
        anomaly = search(self.scaled_patches(taps), bank)
        if self.model.head is None:
            return tuple(anomaly)
        return (*_head_outputs(self.model.head, taps), *anomaly)


Graph = ClassifierGraph | ExtractorGraph


def graphs_from_model(model: InspectionModel, scale: PatchScale, *, separate: bool) -> tuple[Graph, ...]:
    """The graphs of a form, in the order of `edge.manifest.graph_files`.

    Raises:
        ProcunitError: there is no head to separate.
    """
    if separate:
        return ClassifierGraph(model), ExtractorGraph(model, scale)
    return (InspectionGraph(model, scale),)


def patch_scale(patches: NDArray[np.float32]) -> PatchScale:
    """The scale of the patches [n, D] that the bank is chosen from; a feature that hardly varies is not blown up."""
    deviation = patches.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, max(float(np.median(deviation)) / 20, 1e-6))
    spread = deviation * np.sqrt(patches.shape[1])
    return PatchScale(patches.mean(0, dtype=np.float64).astype(np.float32), spread.astype(np.float32))


def search(patches: Tensor, bank: Tensor) -> Nearest:
    """Exact nearest neighbour of each patch [N, D, h, w] in the bank [M, D].

    The nearest row maximises x.b - |b|^2 / 2, one matrix product; its distance is then taken from the difference, so
    that nothing cancels.
    """
    tiles, size, height, width = patches.shape
    queries = patches.permute(0, 2, 3, 1).reshape(-1, size)
    closeness = torch.addmm(-0.5 * (bank * bank).sum(1), queries, bank.t())
    winners = bank.index_select(0, closeness.topk(1).indices[:, 0])  # faster than ArgMax in ONNX Runtime
    distances = (queries - winners).square().sum(1).sqrt().reshape(tiles, height * width)
    score = distances.topk(min(ANOMALOUS_PATCHES, height * width)).values.mean(1)
    return Nearest(distances.reshape(tiles, height, width), score)


def onnx_from_graph(graph: Graph, geometry: Geometry, path: Path) -> None:
    """Write the graph and check it; the numbers of tiles and of bank rows stay free.

    Raises:
        ProcunitError: the written graph is not valid ONNX.
    """
    image = torch.zeros(2, geometry.input_height_px, geometry.input_width_px, geometry.channels, dtype=torch.uint8)
    inputs, free = {"image": image}, {"image": {0: torch.export.Dim("tiles")}}
    if isinstance(graph, ExtractorGraph):
        inputs["bank"], free["bank"] = torch.zeros(8, graph.mean.numel()), {0: torch.export.Dim("rows")}
    program = torch.onnx.export(
        graph,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(graph.outputs),
        opset_version=OPSET,
        dynamic_shapes=free,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch's exporter returned no program")
    program.save(path, external_data=False)
    try:
        onnx.checker.check_model(onnx.load(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ProcunitError(f"the exported graph is not valid ONNX: {error}", where=str(path)) from error


def _head_outputs(head: DefectHead, taps: Taps) -> tuple[Tensor, ...]:
    return tuple(output.float() for output in head(head_features(taps)))
