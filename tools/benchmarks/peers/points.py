"""The points of the coreset race, and the exact covering radius."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

FEATURES = 184
"""The number of EfficientNet-B3's features at strides 8 and 16 together."""
_CLUSTERS = 100
_SEED = 0
_POINTS_AT_ONCE = 100_000
_POINTS_PER_BLOCK = 1024


def write_points(path: Path, count: int) -> None:
    """Write `count` random points float32 [count, FEATURES] as .npy: clusters of many sizes and widths.

    Like a trunk's features, they vary a lot in a few directions and little in most.
    """
    draw = np.random.default_rng(_SEED)
    deviations = (np.arange(1, FEATURES + 1) ** -0.5).astype(np.float32)
    centres = draw.standard_normal((_CLUSTERS, FEATURES), np.float32) * deviations
    widths = draw.lognormal(-1.0, 0.5, _CLUSTERS).astype(np.float32)
    shares = draw.dirichlet(np.full(_CLUSTERS, 0.5))
    points = open_memmap(path, mode="w+", dtype=np.float32, shape=(count, FEATURES))
    for start in range(0, count, _POINTS_AT_ONCE):
        size = min(_POINTS_AT_ONCE, count - start)
        clusters = draw.choice(_CLUSTERS, size, p=shares)
        around = draw.standard_normal((size, FEATURES), np.float32) * deviations
        points[start : start + size] = centres[clusters] + widths[clusters, None] * around
    points.flush()


def exact_radius(points: NDArray[np.float32], chosen: NDArray[np.int64]) -> float:
    """The largest distance of any point [n, D] to its nearest chosen one, in float64 and in all D features."""
    rows = points[chosen].astype(np.float64)
    half_squares = 0.5 * np.einsum("md,md->m", rows, rows)
    radius = 0.0
    for start in range(0, len(points), _POINTS_PER_BLOCK):
        block = points[start : start + _POINTS_PER_BLOCK].astype(np.float64)
        winners = rows[(block @ rows.T - half_squares).argmax(1)]
        radius = max(radius, float(np.linalg.norm(block - winners, axis=1).max()))
    return radius
