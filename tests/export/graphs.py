"""Exported graphs over drawn weights, and the photographs that go through them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge.preprocess import Geometry
from export.graph import InspectionGraph, PatchScale, onnx_from_graph
from tests.photographs import BACKBONE
from training.model import InspectionModel, patch_features

SIDE_PX = 96
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MadeGraph:
    """A graph in torch and as a file, with rows that fit its search."""

    graph: InspectionGraph
    path: Path
    bank: Floats
    geometry: Geometry


def make_graph(path: Path, types: int, channels: int) -> MadeGraph:
    """Export a small network with drawn weights; its bank holds patches of drawn images."""
    torch.manual_seed(0)
    model = InspectionModel(BACKBONE, types, channels)
    geometry = Geometry(input_height_px=SIDE_PX, input_width_px=SIDE_PX, channels=channels)
    with torch.no_grad():
        patches = patch_features(model.taps(torch.from_numpy(images(4, channels)))).permute(0, 2, 3, 1).flatten(0, 2)
    found = patches.numpy()
    scale = PatchScale(found.mean(0), found.std(0) * np.float32(found.shape[1] ** 0.5))
    graph = InspectionGraph(model, scale)
    onnx_from_graph(graph, geometry, path)
    return MadeGraph(graph, path, scale.apply(found), geometry)


def images(count: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Drawn tiles, uint8 [N, H, W, C], coarse enough that strides 8 and 16 see something."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, channels), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))
