"""Exported graphs of every precision with random weights, and random images for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge.bundle.manifest import Precision, graph_files
from edge.geometry import Geometry
from export.bank.memory_bank import rows_with_local_scale
from export.bank.space import PatchSpace, space_from_patches
from export.graph.inspection_graph import InspectionGraph, graphs_from_model, onnx_from_graph
from export.graph.precision import fold_batch_norms, to_fp16
from export.graph.quantize import to_int8
from tests.support.photographs import BACKBONE
from training.model import InspectionModel, patch_features

SIDE_PX = 96
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MadeGraph:
    """A graph in PyTorch, a bank that fits it, and the directory to which its ONNX files are exported on demand."""

    graph: InspectionGraph
    space: PatchSpace
    bank: Floats
    geometry: Geometry
    directory: Path

    @cached_property
    def path(self) -> Path:
        """The fused graph in FP32."""
        return self.paths("fp32")[0]

    def paths(self, precision: Precision, *, separate: bool = False) -> list[Path]:
        """The files of a precision and form, each exported once."""
        paths = [self.directory / name for name in graph_files(precision, separate=separate)]
        if not all(path.exists() for path in paths):
            model = self.model(precision)
            for graph, path in zip(graphs_from_model(model, self.space, separate=separate), paths, strict=True):
                onnx_from_graph(graph, self.geometry, path)
        return paths

    def model(self, precision: Precision) -> InspectionModel:
        """The network in a precision."""
        shown = images(4, self.geometry.channels)
        reference = fold_batch_norms(self.graph.model, shown)
        variants: dict[Precision, Callable[[], InspectionModel]] = {
            "fp32": lambda: reference,
            "fp16": lambda: to_fp16(reference),
            "int8": lambda: to_int8(reference, [shown]),
        }
        return variants[precision]()


def make_graph(directory: Path, types: int, channels: int) -> MadeGraph:
    """A small network with random weights; its bank holds patches of random images."""
    torch.manual_seed(0)
    model = InspectionModel(BACKBONE, types, channels)
    geometry = Geometry(input_height_px=SIDE_PX, input_width_px=SIDE_PX, channels=channels)
    with torch.no_grad():
        patches = patch_features(model.taps(torch.from_numpy(images(4, channels)))).permute(0, 2, 3, 1).flatten(0, 2)
    space = space_from_patches(patches.numpy(), model.channels_of_stride8)
    bank = rows_with_local_scale(torch.from_numpy(space.apply(patches.numpy()))).numpy()
    return MadeGraph(InspectionGraph(model, space), space, bank, geometry, directory)


def images(count: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random tiles, uint8 [N, H, W, C], coarse enough that strides 8 and 16 see structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, channels), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))
