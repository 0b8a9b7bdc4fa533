"""From patch features to the anomaly score: the one definition shared by graph, calibration and the growing bank.

A row of the memory bank holds the features of a good patch and, as its last number, its local scale: the geometric
mean of the distance to its neighbours in the bank and the usual distance between neighbours. The distance of a patch
to a row is the Euclidean distance divided by the row's local scale; its distance to the bank is the smallest of these.
This is local scaling (Zelnik-Manor and Perona, NIPS 2004) of half the strength. PatchCore instead re-weights by
neighbours, which it has to search for on every part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATCHES_PER_COUNTED = 32
"""A tile's anomaly score is the mean distance of its farthest patches, one in this many of the inspected ones, so that
no single noisy patch decides it; chosen by cross-validation by part (docs/decisions/0018)."""

LEAST_DISTANCE = 0.03
"""In local scales; smaller distances are raised to this. Distances of good parts are around 1; below this limit,
squared distances in FP32 are dominated by rounding, above it the rounding error is below 1e-4."""

_MAD_TO_SIGMA = 1.4826
_SPREAD_FLOOR, _SPREAD_FLOOR_OF_CENTER = 1e-3, 0.01
_BLOCK_VALUES = 1 << 22
"""Squared distances held in memory at a time."""


def counted_patches(inspected: int) -> int:
    """How many patches of a tile count for its score, given how many are inspected."""
    return max(1, -(-inspected // PATCHES_PER_COUNTED))


def score_from_distances(distances: NDArray[np.float32], counted: int) -> float:
    """The anomaly score of a tile: the mean of the `counted` largest of its patches' distances [P]."""
    return float(np.sort(distances)[-counted:].mean())


def center_and_spread(part_scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and scaled median absolute deviation over the parts, of float64 [parts, S]: float64 [S] each.

    The spread has a lower limit above zero.
    """
    center = np.median(part_scores, axis=0)
    spread = _MAD_TO_SIGMA * np.median(np.abs(part_scores - center), axis=0)
    return center, np.maximum(spread, np.maximum(_SPREAD_FLOOR, _SPREAD_FLOOR_OF_CENTER * np.abs(center)))


def folded_rows(bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bank [M, D + 1] as the graph's input [M, D + 2]: its product with (x, |x|^2, 1) is -(|x - b| / scale)^2.

    Computed once per bank, so that it costs nothing per part.
    """
    features, weights = bank[:, :-1], 1 / np.square(bank[:, -1:])
    norms = np.square(features).sum(axis=1, keepdims=True)
    return np.concatenate([2 * weights * features, -weights, -weights * norms], axis=1, dtype=np.float32)


def distances_to_rows(patches: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each patch [..., D] to the nearest of the rows [M, D + 1]: float32 [...]; infinite without rows.

    The nearest row is found by a matrix product; its distance is computed from the difference, which keeps small
    distances exact.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    if not len(rows):
        return np.full(patches.shape[:-1], np.inf, np.float32)
    features, scales = rows[:, :-1], rows[:, -1]
    columns = folded_rows(rows).T
    nearest = np.empty(len(flat), np.intp)
    block = max(1, _BLOCK_VALUES // len(rows))
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        squares = np.einsum("nd,nd->n", part, part)[:, np.newaxis]
        queries = np.concatenate([part, squares, np.ones_like(squares)], axis=1)
        nearest[start : start + block] = np.argmax(queries @ columns, axis=1)
    distances = np.maximum(np.linalg.norm(flat - features[nearest], axis=1) / scales[nearest], LEAST_DISTANCE)
    return np.asarray(distances.reshape(patches.shape[:-1]), np.float32)
