"""Which rows of a full memory bank are most redundant, and how much dropping them can raise any distance, at most.

A row b may be dropped in favour of a row b' with at least the same local scale. With local scales s <= s', a patch x
that was at |x - b| / s is then at |x - b'| / s' <= (s / s') |x - b| / s + |b - b'| / s' at most, by the triangle
inequality: its distance grows by no more than |b - b'| / s', the loss. For a row b' with a smaller local scale there is
no such bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_VALUES = 1 << 22
"""The number of losses that are computed at a time, which bounds the memory."""


def most_redundant(
    base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32], count: int
) -> tuple[int, ...]:
    """Sorted indices of `removed` and of `count` more rows to drop from the base [M, D + 1].

    Rows are dropped one by one, each time the one with the least loss. Its substitute is a row of the base or of the
    rows `added` [a, D + 1] that is still present. A row with the largest local scale always stays.
    """
    rows, present = _rows_and_present(base, removed, added)
    dropped = list(removed)
    substitutes, losses = _substitutes(rows, present, np.arange(len(base)))
    losses[dropped] = np.inf
    for _ in range(count):
        row = int(np.argmin(losses))
        dropped.append(row)
        present[row], losses[row] = False, np.inf
        to_reassign = np.flatnonzero((substitutes == row) & present[: len(base)])
        substitutes[to_reassign], losses[to_reassign] = _substitutes(rows, present, to_reassign)
    return tuple(sorted(dropped))


def coverage_loss(base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32]) -> float:
    """An upper bound on how much dropping the rows `removed` of the base [M, D + 1] raises any patch's distance.

    Infinite if one of them has a larger local scale than every row that is left.
    """
    if not removed:
        return 0.0
    rows, present = _rows_and_present(base, removed, added)
    return float(_substitutes(rows, present, np.array(removed))[1].max())


def _rows_and_present(
    base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """All rows, those of the base first, and for each whether it is present."""
    rows = np.concatenate([base, added])
    present = np.ones(len(rows), np.bool_)
    present[list(removed)] = False
    return rows, present


def _substitutes(
    rows: NDArray[np.float32], present: NDArray[np.bool_], of: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each row in `of` the other present row that gives the least loss, and that loss."""
    features, scales = rows[:, :-1], rows[:, -1]
    squares = np.einsum("md,md->m", features, features)
    weights = 1 / np.square(scales)
    substitutes, losses = np.empty(len(of), np.intp), np.empty(len(of), np.float32)
    block = max(1, _BLOCK_VALUES // len(rows))
    for start in range(0, len(of), block):
        part = of[start : start + block]
        squared = (squares[part, np.newaxis] + squares - 2 * features[part] @ features.T) * weights
        squared[:, ~present] = np.inf
        squared[scales < scales[part, np.newaxis]] = np.inf
        squared[np.arange(len(part)), part] = np.inf
        chosen = np.argmin(squared, axis=1)
        # From the difference itself, as in `distances_to_rows`: in the squares a small loss would be lost to rounding.
        exact = np.linalg.norm(features[part] - features[chosen], axis=1) / scales[chosen]
        substitutes[start : start + block] = chosen
        losses[start : start + block] = np.where(np.isinf(squared.min(axis=1)), np.inf, exact)
    return substitutes, losses
