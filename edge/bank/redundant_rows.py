"""Which rows of a full memory bank tell least, and what their absence costs.

A row b may go in favour of a row b' that reaches as far or farther. With reaches s <= s', a patch x that was at
|x - b| / s is then at |x - b'| / s' <= (s / s') |x - b| / s + |b - b'| / s' at most, by the triangle inequality: its
distance grows by no more than |b - b'| / s', the loss. For a row that reaches less far there is no such bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_VALUES = 1 << 22
"""Losses that are held at a time."""


def most_redundant(
    base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32], count: int
) -> tuple[int, ...]:
    """Indices of `removed` and of `count` more rows of the base [M, D + 1], sorted.

    One after the other goes the row with the least loss, in favour of another one, of the base or added [a, D + 1],
    that is still there. The row that reaches farthest stays.
    """
    rows, there = _rows_there(base, removed, added)
    gone = list(removed)
    stand_ins, losses = _stand_ins(rows, there, np.arange(len(base)))
    losses[gone] = np.inf
    for _ in range(count):
        row = int(np.argmin(losses))
        gone.append(row)
        there[row], losses[row] = False, np.inf
        orphans = np.flatnonzero((stand_ins == row) & there[: len(base)])
        stand_ins[orphans], losses[orphans] = _stand_ins(rows, there, orphans)
    return tuple(sorted(gone))


def coverage_loss(base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32]) -> float:
    """By how much any patch can have got farther from the base [M, D + 1] for the rows removed, at most.

    Infinite where one of them reached farther than every row that is left.
    """
    if not removed:
        return 0.0
    rows, there = _rows_there(base, removed, added)
    return float(_stand_ins(rows, there, np.array(removed))[1].max())


def _rows_there(
    base: NDArray[np.float32], removed: tuple[int, ...], added: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """All rows, those of the base first, and which of them are there."""
    rows = np.concatenate([base, added])
    there = np.ones(len(rows), np.bool_)
    there[list(removed)] = False
    return rows, there


def _stand_ins(
    rows: NDArray[np.float32], there: NDArray[np.bool_], of: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each of these rows the other one that is there by which its loss is least, and that loss."""
    features, reaches = rows[:, :-1], rows[:, -1]
    squares = np.einsum("md,md->m", features, features)
    weights = 1 / np.square(reaches)
    stand_ins, losses = np.empty(len(of), np.intp), np.empty(len(of), np.float32)
    block = max(1, _BLOCK_VALUES // len(rows))
    for start in range(0, len(of), block):
        part = of[start : start + block]
        squared = (squares[part, np.newaxis] + squares - 2 * features[part] @ features.T) * weights
        squared[:, ~there] = np.inf
        squared[reaches < reaches[part, np.newaxis]] = np.inf
        squared[np.arange(len(part)), part] = np.inf
        chosen = np.argmin(squared, axis=1)
        # From the difference itself, as `distances_to_rows` does: a small loss would drown in the squares.
        exact = np.linalg.norm(features[part] - features[chosen], axis=1) / reaches[chosen]
        stand_ins[start : start + block] = chosen
        losses[start : start + block] = np.where(np.isinf(squared.min(axis=1)), np.inf, exact)
    return stand_ins, losses
