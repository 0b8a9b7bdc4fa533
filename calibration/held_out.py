"""Patches of the calibration photographs that a bundle keeps, so that a bank grown at the line is checked with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_bytes

from edge.anomaly import counted_patches, score_from_distances
from edge.bundle.manifest import (
    COUNTED_KEY,
    DEFECT_COUNTED_KEY,
    DEFECT_DISTANCES_KEY,
    DEFECT_PATCHES_KEY,
    DISTANCES_KEY,
    PATCHES_KEY,
)
from edge.engine.ort import session_from_graph
from edge.geometry import Geometry
from edge.messages import PixelArray, Scores
from edge.preprocess import inspected_patches, tensor_from_pixels


@dataclass(frozen=True, eq=False)
class FarthestPatches:
    """A photograph's farthest patches [K, D], their distances [K], descending, and how many of them make the score."""

    patches: NDArray[np.float32]
    distances: NDArray[np.float32]
    counted: int


class PatchExtractor:
    """Computes the features of a photograph's patches with the run's patches graph.

    Raises:
        ProcunitError: the graph cannot be loaded.
    """

    def __init__(self, graph: Path, geometry: Geometry) -> None:
        self._session = session_from_graph(graph, threads=0)
        self._geometry = geometry

    def farthest(self, pixels: PixelArray, scores: Scores, *, of_highest_tile: bool) -> FarthestPatches:
        """A photograph's farthest patches, over all tiles or of the tile with the highest score.

        A score from them is never too low for all tiles, because the smallest count of any tile is used, and exact for
        one tile.
        """
        tiles_u8 = tensor_from_pixels(pixels, self._geometry)
        (maps,) = self._session.run([PATCHES_KEY], {"image": tiles_u8})
        patches = np.asarray(maps, np.float32).transpose(0, 2, 3, 1).reshape(len(tiles_u8), -1, maps.shape[1])
        distances = scores.anomaly_map.reshape(len(tiles_u8), -1)
        counted = np.array([counted_patches(int(inspected.sum())) for inspected in inspected_patches(tiles_u8)])
        kept = min(patches.shape[1], 2 * counted_patches(patches.shape[1]))
        if of_highest_tile:
            tile = int(np.argmax([score_from_distances(own, n) for own, n in zip(distances, counted, strict=True)]))
            highest = slice(tile, tile + 1)
            patches, distances, counted = patches[highest], distances[highest], counted[highest]
        flat, far = patches.reshape(-1, patches.shape[2]), distances.reshape(-1)
        order = np.argsort(-far, kind="stable")[:kept]
        return FarthestPatches(flat[order], far[order], int(counted.min()))


def held_out_bytes(good: Sequence[FarthestPatches], defects: Sequence[FarthestPatches]) -> bytes:
    """The tensors of `edge.bundle.manifest.HELD_OUT` as a safetensors file; `edge.bank.evidence` reads them."""
    names = (PATCHES_KEY, DISTANCES_KEY, COUNTED_KEY), (DEFECT_PATCHES_KEY, DEFECT_DISTANCES_KEY, DEFECT_COUNTED_KEY)
    size = (good or defects)[0].patches.shape
    tensors: dict[str, NDArray[np.generic]] = {}
    for (patches, distances, counted), photographs in zip(names, (good, defects), strict=True):
        tensors[patches] = np.array([photo.patches for photo in photographs], np.float32).reshape(-1, *size)
        tensors[distances] = np.array([photo.distances for photo in photographs], np.float32).reshape(-1, size[0])
        tensors[counted] = np.array([photo.counted for photo in photographs], np.int32)
    return safetensors_bytes(tensors)
