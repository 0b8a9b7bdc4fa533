"""What the product computes fast, as plainly as a textbook has it: NumPy, float64, one loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]

SINGLE_PRECISION = 4e-6
"""Of the largest square: how far apart two squared distances are that single precision cannot tell from each other."""

LEAST = 0.03


def worst_pick(points: Floats, rows: NDArray[np.int64]) -> float:
    """How much nearer than the farthest point any row was when it was picked, in squared distances (Gonzalez, 1985).

    The first row may be any; a share of the largest square of any point. 0 where each row was a farthest point.
    """
    exact = points.astype(np.float64)
    nearest, worst = np.full(len(exact), np.inf), 0.0
    for place, row in enumerate(rows):
        if place:
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
    """PatchCore: each patch [n, D] to the row of the bank [M, D + 1] that is nearest in reaches, its last column.

    What is nearer than `LEAST` counts as that far.
    """
    nearest = np.full(len(patches), np.inf)
    for row in bank.astype(np.float64):
        nearest = np.minimum(nearest, np.linalg.norm(patches - row[:-1], axis=1) / row[-1])
    return np.asarray(np.maximum(nearest, LEAST), np.float64)


def tile_score(patch_distances: Exact) -> float:
    """The mean of the farthest patches, one in 32 of those that are judged."""
    counted = max(1, -(-len(patch_distances) // 32))
    return float(np.sort(patch_distances)[-counted:].mean())
