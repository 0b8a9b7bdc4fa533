"""From a part's patch features to its anomaly score: the one rule that graph, calibration and growing bank share.

A row of the memory bank is a good patch's features and, as its last number, its reach: the geometric mean of how
far its neighbours in the bank are and how far neighbours usually are. A patch's distance is counted in reaches of the
row that is nearest so counted (after local scaling, Zelnik-Manor and Perona, NIPS 2004, of half the strength), where
PatchCore re-weights by neighbours that it has to search for on every part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATCHES_PER_COUNTED = 32
"""A tile's anomaly score is the mean distance of its farthest patches, one in so many of those that are judged, so that
no single noisy patch makes it; chosen by cross-validation by part (docs/decisions/0018)."""

LEAST_DISTANCE = 0.03
"""In reaches; nearer patches count as this far. Those of good parts lie around 1, and a graph that computes squared
distances in FP32 tells shorter ones apart by rounding alone; from here on rounding is below 1e-4."""

_MAD_TO_SIGMA = 1.4826
_SPREAD_FLOOR, _SPREAD_FLOOR_OF_CENTER = 1e-3, 0.01
_BLOCK_VALUES = 1 << 22
"""Squared distances that are held at a time."""


def counted_patches(judged: int) -> int:
    """How many patches of a tile make its score."""
    return max(1, -(-judged // PATCHES_PER_COUNTED))


def score_from_distances(distances: NDArray[np.float32], counted: int) -> float:
    """The anomaly score of one tile, of which so many patches are counted, from the distances [P] of its patches."""
    return float(np.sort(distances)[-counted:].mean())


def center_and_spread(part_scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and scaled median absolute deviation of each of S scores over float64 [parts, S]: float64 [S] each.

    The spread has a floor above zero.
    """
    center = np.median(part_scores, axis=0)
    spread = _MAD_TO_SIGMA * np.median(np.abs(part_scores - center), axis=0)
    return center, np.maximum(spread, np.maximum(_SPREAD_FLOOR, _SPREAD_FLOOR_OF_CENTER * np.abs(center)))


def folded_rows(bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bank [M, D + 1] as a graph takes it, [M, D + 2]: its product with (x, |x|^2, 1) is -(|x - b| / reach)^2.

    Folded once where a bank is taken into use, it costs nothing on every part.
    """
    features, weights = bank[:, :-1], 1 / np.square(bank[:, -1:])
    norms = np.square(features).sum(axis=1, keepdims=True)
    return np.concatenate([2 * weights * features, -weights, -weights * norms], axis=1, dtype=np.float32)


def distances_to_rows(patches: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each patch [..., D] to the nearest of the rows [M, D + 1]: float32 [...], infinite without rows.

    Which row is nearest comes from a matrix product, its distance from the difference itself, which keeps small
    distances exact.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    if not len(rows):
        return np.full(patches.shape[:-1], np.inf, np.float32)
    features, reaches = rows[:, :-1], rows[:, -1]
    columns = folded_rows(rows).T
    nearest = np.empty(len(flat), np.intp)
    block = max(1, _BLOCK_VALUES // len(rows))
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        squares = np.einsum("nd,nd->n", part, part)[:, np.newaxis]
        queries = np.concatenate([part, squares, np.ones_like(squares)], axis=1)
        nearest[start : start + block] = np.argmax(queries @ columns, axis=1)
    distances = np.maximum(np.linalg.norm(flat - features[nearest], axis=1) / reaches[nearest], LEAST_DISTANCE)
    return np.asarray(distances.reshape(patches.shape[:-1]), np.float32)
