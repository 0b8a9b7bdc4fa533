"""Plain reference implementations of what the product computes fast: NumPy, float64, one loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]

SINGLE_PRECISION = 4e-6
"""Difference of two squared distances, relative to the largest square, that single precision cannot resolve."""

LEAST = 0.03


def worst_pick(points: Floats, rows: NDArray[np.int64]) -> float:
    """How much nearer than the farthest point a row was when it was picked, in squared distances (Gonzalez, 1985).

    It is the worst over all rows but the first, relative to the largest square of any point; 0 if every row was a
    farthest point.
    """
    exact = points.astype(np.float64)
    nearest, worst = np.full(len(exact), np.inf), 0.0
    for index, row in enumerate(rows):
        if index:
            worst = max(worst, float(nearest.max() - nearest[row]))
        nearest = np.minimum(nearest, np.square(exact - exact[row]).sum(1))
    return worst / max(float(np.square(exact).sum(1).max()), 1e-30)


def covering_radius(points: Floats, rows: Floats) -> float:
    """The largest distance of any point [n, D] to its nearest row [M, D]."""
    nearest = np.full(len(points), np.inf)
    for row in rows.astype(np.float64):
        nearest = np.minimum(nearest, np.linalg.norm(points - row, axis=1))
    return float(nearest.max())


def distances(patches: Floats, bank: Floats) -> Exact:
    """PatchCore: distance of each patch [n, D] to its nearest bank row [M, D + 1], divided by the row's local scale.

    The local scale is the last column. No distance is below `LEAST`.
    """
    nearest = np.full(len(patches), np.inf)
    for row in bank.astype(np.float64):
        nearest = np.minimum(nearest, np.linalg.norm(patches - row[:-1], axis=1) / row[-1])
    return np.asarray(np.maximum(nearest, LEAST), np.float64)


def tile_score(patch_distances: Exact) -> float:
    """The mean over the farthest of the inspected patches, one in 32."""
    counted = max(1, -(-len(patch_distances) // 32))
    return float(np.sort(patch_distances)[-counted:].mean())
