"""Checkpoint to ONNX: both scorers in one graph, or each in its own, to the bundle's contract.

The bank is an input, so that it can grow or be swapped without building an engine. The Cast comes first, because
TensorRT does not transpose uint8. Whatever the trunk computes in, the features that are searched for become FP32 before
they are averaged and centred, and the search is FP32: half precision ruins its distances. Patches without a pixel that
is judged have no distance and do not count (docs/decisions/0017).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.anomaly import LEAST_DISTANCE, PATCHES_PER_COUNTED, counted_patches
from edge.bundle.manifest import PATCHES_KEY
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.preprocess import PADDING_U8, PATCH_PX
from export.bank.space import PatchSpace
from training.model import DefectHead, InspectionModel, Taps, head_features, patch_features

OPSET = 18
HEAD_OUTPUTS, ANOMALY_OUTPUTS = ("logits", "defect_maps"), ("anomaly_map", "anomaly_score")


class Nearest(NamedTuple):
    """For each tile: `anomaly_map` [N, h, w], each judged patch's distance to the bank, and `anomaly_score` [N]."""

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


class _PatchSpaceGraph(nn.Module):
    """A network and the space that its patches are compared in."""

    outputs: tuple[str, ...]
    mean: Tensor
    projection: Tensor

    def __init__(self, model: InspectionModel, space: PatchSpace) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.from_numpy(space.mean).view(1, -1, 1, 1))
        self.register_buffer("projection", torch.from_numpy(space.projection).t()[:, :, None, None].contiguous())
        self.eval()

    def patches(self, taps: Taps) -> Tensor:
        """The patches [N, D, h, w] in the bank's space, FP32."""
        features = patch_features(Taps(*(tap.float() for tap in taps)))
        return F.conv2d(features - self.mean, self.projection)


class PatchesGraph(_PatchSpaceGraph):
    """`image` uint8 [N, H, W, C] to `patches` [N, D, h, w]: what the bank's rows are taken from."""

    outputs: tuple[str, ...] = (PATCHES_KEY,)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return (self.patches(self.model.taps(image)),)


class ExtractorGraph(_PatchSpaceGraph):
    """`image` uint8 [N, H, W, C] and `bank` [M, D + 2] (`edge.anomaly.folded_rows`) to the anomaly's outputs."""

    outputs: tuple[str, ...] = ANOMALY_OUTPUTS

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return tuple(search(self.patches(self.model.taps(image)), judged_patches(image), bank))


class InspectionGraph(ExtractorGraph):
    """`image` and `bank` [M, D + 2] to the contract's outputs; without types, the anomaly's alone."""

    def __init__(self, model: InspectionModel, space: PatchSpace) -> None:
        super().__init__(model, space)
        self.outputs = ANOMALY_OUTPUTS if model.head is None else HEAD_OUTPUTS + ANOMALY_OUTPUTS

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        taps = self.model.taps(image)
        anomaly = search(self.patches(taps), judged_patches(image), bank)
        if self.model.head is None:
            return tuple(anomaly)
        return (*_head_outputs(self.model.head, taps), *anomaly)


Graph = ClassifierGraph | ExtractorGraph | PatchesGraph


def graphs_from_model(model: InspectionModel, space: PatchSpace, *, separate: bool) -> tuple[Graph, ...]:
    """The graphs of a form, in the order of `edge.bundle.manifest.graph_files`.

    Raises:
        ProcunitError: there is no head to separate.
    """
    if separate:
        return ClassifierGraph(model), ExtractorGraph(model, space)
    return (InspectionGraph(model, space),)


def judged_patches(image: Tensor) -> Tensor:
    """Which patches of `image` uint8 [N, H, W, C] have a pixel that is judged: bool [N, h, w].

    As `edge.preprocess.judged_patches`: no judged pixel is the padding grey.
    """
    pixels = image.float().permute(0, 3, 1, 2)
    brightest, darkest = F.max_pool2d(pixels, PATCH_PX), -F.max_pool2d(-pixels, PATCH_PX)
    return torch.maximum(brightest - PADDING_U8, PADDING_U8 - darkest).amax(1) > 0


def search(patches: Tensor, judged: Tensor, bank: Tensor) -> Nearest:
    """Exact nearest neighbour of each patch [N, D, h, w] in the bank [M, D + 2] of `edge.anomaly.folded_rows`.

    One matrix product gives every squared distance, so patches that coincide with a row would be told apart by
    rounding alone: no distance is below `LEAST_DISTANCE`.
    """
    tiles, size, height, width = patches.shape
    queries = patches.permute(0, 2, 3, 1).reshape(-1, size)
    squares = queries.square().sum(1, keepdim=True)
    closeness = torch.cat((queries, squares, torch.ones_like(squares)), 1) @ bank.t()
    distances = (-closeness.amax(1)).clamp(min=LEAST_DISTANCE**2).sqrt()
    distances = torch.where(judged.reshape(tiles, -1), distances.reshape(tiles, height * width), 0.0)
    return Nearest(distances.reshape(tiles, height, width), _score(distances, judged.reshape(tiles, -1)))


def _score(distances: Tensor, judged: Tensor) -> Tensor:
    """The mean of each tile's farthest patches, as many as `edge.anomaly.counted_patches` says: [N] of [N, P]."""
    farthest = distances.topk(counted_patches(distances.shape[1])).values
    counted = (judged.float().sum(1, keepdim=True) / PATCHES_PER_COUNTED).ceil().clamp(min=1)
    counts = torch.arange(farthest.shape[1], device=farthest.device) < counted
    return (farthest * counts).sum(1) / counted[:, 0]


def onnx_from_graph(graph: Graph, geometry: Geometry, path: Path) -> None:
    """Write the graph and check it; the numbers of tiles and of bank rows stay free.

    Raises:
        ProcunitError: the written graph is not valid ONNX.
    """
    image = torch.zeros(2, geometry.input_height_px, geometry.input_width_px, geometry.channels, dtype=torch.uint8)
    inputs, free = {"image": image}, {"image": {0: torch.export.Dim("tiles")}}
    if isinstance(graph, ExtractorGraph):
        inputs["bank"], free["bank"] = torch.ones(8, len(graph.projection) + 2), {0: torch.export.Dim("rows")}
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
