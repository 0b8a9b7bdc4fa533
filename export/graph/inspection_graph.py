"""From checkpoint to ONNX: both scorers in one graph, or each in a graph of its own, as the bundle requires.

The memory bank is an input, so that it can grow or be swapped without building an engine. The Cast comes first, because
TensorRT does not transpose uint8. Whatever precision the trunk uses, features become FP32 before they are averaged and
centred, and the nearest-neighbour search is FP32: half precision ruins the distances. Patches without an inspected
pixel get distance 0 and do not count (docs/decisions/0017).
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


class AnomalyOutputs(NamedTuple):
    """For N tiles: `anomaly_map` [N, h, w], each inspected patch's distance to the bank, and `anomaly_score` [N]."""

    anomaly_map: Tensor
    anomaly_score: Tensor


class ClassifierGraph(nn.Module):
    """From `image` uint8 [N, H, W, C] to the head's outputs."""

    outputs: tuple[str, ...] = HEAD_OUTPUTS

    def __init__(self, model: InspectionModel) -> None:
        super().__init__()
        if model.head is None:
            raise ProcunitError(
                "no defect type was taught, so there is no separate classifier",
                remedy="Export without --separate",
            )
        self.model, self.head = model, model.head
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return _head_outputs(self.head, self.model.taps(image))


class _PatchSpaceGraph(nn.Module):
    """A network and the space in which its patches are compared."""

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
        """The patches in the bank's space: FP32 [N, D, h, w]."""
        features = patch_features(Taps(*(tap.float() for tap in taps)))
        return F.conv2d(features - self.mean, self.projection)


class PatchesGraph(_PatchSpaceGraph):
    """From `image` uint8 [N, H, W, C] to `patches` [N, D, h, w], from which bank rows are made."""

    outputs: tuple[str, ...] = (PATCHES_KEY,)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return (self.patches(self.model.taps(image)),)


class ExtractorGraph(_PatchSpaceGraph):
    """From `image` uint8 [N, H, W, C] and `bank` [M, D + 2] (`edge.anomaly.folded_rows`) to the anomaly outputs."""

    outputs: tuple[str, ...] = ANOMALY_OUTPUTS

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        return tuple(search(self.patches(self.model.taps(image)), inspected_patches(image), bank))


class InspectionGraph(ExtractorGraph):
    """From `image` and `bank` [M, D + 2] to all outputs of the contract; the anomaly outputs if there is no head."""

    def __init__(self, model: InspectionModel, space: PatchSpace) -> None:
        super().__init__(model, space)
        self.outputs = ANOMALY_OUTPUTS if model.head is None else HEAD_OUTPUTS + ANOMALY_OUTPUTS

    def forward(self, image: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `outputs`."""
        taps = self.model.taps(image)
        anomaly = search(self.patches(taps), inspected_patches(image), bank)
        if self.model.head is None:
            return tuple(anomaly)
        return (*_head_outputs(self.model.head, taps), *anomaly)


Graph = ClassifierGraph | ExtractorGraph | PatchesGraph


def graphs_from_model(model: InspectionModel, space: PatchSpace, *, separate: bool) -> tuple[Graph, ...]:
    """The fused graph, or the separate ones, in the order of `edge.bundle.manifest.graph_files`.

    Raises:
        ProcunitError: separate graphs need a head, and there is none.
    """
    if separate:
        return ClassifierGraph(model), ExtractorGraph(model, space)
    return (InspectionGraph(model, space),)


def inspected_patches(image: Tensor) -> Tensor:
    """Which patches of `image` uint8 [N, H, W, C] contain an inspected pixel: bool [N, h, w].

    Same rule as `edge.preprocess.inspected_patches`: every pixel that differs from the padding grey is inspected.
    """
    pixels = image.float().permute(0, 3, 1, 2)
    brightest, darkest = F.max_pool2d(pixels, PATCH_PX), -F.max_pool2d(-pixels, PATCH_PX)
    return torch.maximum(brightest - PADDING_U8, PADDING_U8 - darkest).amax(1) > 0


def search(patches: Tensor, inspected: Tensor, bank: Tensor) -> AnomalyOutputs:
    """Exact nearest neighbour of each patch [N, D, h, w] in the bank [M, D + 2] of `edge.anomaly.folded_rows`.

    All squared distances come from one matrix product, so the smallest ones are mostly rounding error: no distance is
    below `LEAST_DISTANCE`.
    """
    tiles, size, height, width = patches.shape
    queries = patches.permute(0, 2, 3, 1).reshape(-1, size)
    squares = queries.square().sum(1, keepdim=True)
    closeness = torch.cat((queries, squares, torch.ones_like(squares)), 1) @ bank.t()
    distances = (-closeness.amax(1)).clamp(min=LEAST_DISTANCE**2).sqrt()
    distances = torch.where(inspected.reshape(tiles, -1), distances.reshape(tiles, height * width), 0.0)
    return AnomalyOutputs(distances.reshape(tiles, height, width), _score(distances, inspected.reshape(tiles, -1)))


def _score(distances: Tensor, inspected: Tensor) -> Tensor:
    """The mean over each tile's `edge.anomaly.counted_patches` farthest patches: [N] from distances [N, P]."""
    farthest = distances.topk(counted_patches(distances.shape[1])).values
    counted = (inspected.float().sum(1, keepdim=True) / PATCHES_PER_COUNTED).ceil().clamp(min=1)
    counts = torch.arange(farthest.shape[1], device=farthest.device) < counted
    return (farthest * counts).sum(1) / counted[:, 0]


def onnx_from_graph(graph: Graph, geometry: Geometry, path: Path) -> None:
    """Write the graph as ONNX and check it; the numbers of tiles and of bank rows stay dynamic.

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
