"""The memory bank: a coreset of the patches of photographs that were learned from.

Greedy k-center (Gonzalez, Theor. Comput. Sci. 38, 1985) as in PatchCore: each row added is the patch farthest from all
rows so far. Distances for the choice are taken after a random projection; the rows themselves are whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHOICE_DIMENSIONS = 64
"""Features a patch is projected to while rows are chosen."""
MAX_CANDIDATES = 60_000
"""Patches among which rows are chosen, which bounds memory however many photographs there are."""

_BLOCK_ROWS = 4096

Matrix = NDArray[np.float32]


def candidates_per_photo(photos: int, patches_of_a_photo: int) -> int:
    """How many patches of each photograph take part, so that all together stay within `MAX_CANDIDATES`."""
    return max(1, min(patches_of_a_photo, MAX_CANDIDATES // max(photos, 1)))


def projected(candidates: Matrix, seed: int) -> Matrix:
    """Candidates [n, D] projected to `CHOICE_DIMENSIONS`, distances kept on average (Johnson and Lindenstrauss)."""
    size = candidates.shape[1]
    if size <= CHOICE_DIMENSIONS:
        return candidates
    draw = np.random.default_rng(seed)
    projection = draw.standard_normal((size, CHOICE_DIMENSIONS), np.float32) / np.float32(CHOICE_DIMENSIONS**0.5)
    return np.asarray(candidates @ projection, np.float32)


def k_center_greedy(points: Matrix, count: int, seed: int) -> Iterator[int]:
    """Indices of `count` points, one at a time: a drawn one, then always the one farthest from all before it.

    Stops early when every point coincides with a chosen one.
    """
    squares = np.einsum("nd,nd->n", points, points)
    chosen = int(np.random.default_rng(seed).integers(len(points)))
    nearest = np.full(len(points), np.inf, np.float32)
    for _ in range(min(count, len(points))):
        if nearest[chosen] <= 0:
            return
        yield chosen
        to_chosen = squares - 2 * (points @ points[chosen]) + squares[chosen]
        np.minimum(nearest, to_chosen, out=nearest)
        nearest[chosen] = 0
        chosen = int(nearest.argmax())


def covering_radius(points: Matrix, rows: Matrix) -> float:
    """The largest distance from a point to its nearest row, in blocks so that memory stays bounded."""
    half_squares = 0.5 * np.einsum("md,md->m", rows, rows)
    radius = 0.0
    for start in range(0, len(points), _BLOCK_ROWS):
        block = points[start : start + _BLOCK_ROWS]
        winners = rows[(block @ rows.T - half_squares).argmax(1)]
        radius = max(radius, float(np.linalg.norm(block - winners, axis=1).max()))
    return radius
