"""Greedy k-center (Gonzalez, Theor. Comput. Sci. 38, 1985), exact, at the speed of matrix products.

The textbook algorithm passes over all points for every row it picks, which is limited by memory bandwidth. Here rows
are picked from a small set of the farthest points. This stays exact because a point's distance to the rows never grows:
the distances at the last pass are upper bounds for the points outside the set. When a bound reaches the farthest point
of the set, one matrix product updates all points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_FEW_PICKS, _MANY_PICKS = 64, 512
"""Rows picked between two passes over all points; below or above this the set of farthest points grows or shrinks."""
_MIN_FARTHEST = 1024
_BLOCK_VALUES = 1 << 22
"""Distances held in memory at a time while all points are updated."""
_COINCIDES = 4e-6
"""If a point's squared distance to a row is at most this share of the point's squared norm, the two are equal within
single precision."""


@dataclass(frozen=True, slots=True)
class Coreset:
    """Indices of the rows in the order of picking, and the largest distance of any point to its nearest row."""

    indices: Tensor
    covering_radius: float


def k_center_greedy(
    points: Tensor, count: int, seed: int, on_picked: Callable[[int], None] = lambda _: None
) -> Coreset:
    """Pick at most `count` points of float32 [n, D]: a random first one, then always the one farthest from all picked.

    It returns fewer rows if every point coincides with a row. It runs on the points' device and needs a few extra
    numbers per point. `on_picked` is called from time to time with the number of rows so far.
    """
    squares = points.square().sum(1)
    first = int(torch.randint(len(points), (1,), generator=torch.Generator().manual_seed(seed)))
    picked = [torch.tensor([first], device=points.device)]
    nearest = torch.full_like(squares, torch.inf)
    size, rows = _MIN_FARTHEST, 1
    while True:
        _update_nearest(nearest, points, squares, picked[-1])
        on_picked(rows)
        largest = float(nearest.max())
        if rows == min(count, len(points)) or largest == 0:
            return Coreset(torch.cat(picked), largest**0.5)
        farthest = nearest.topk(min(size, len(points)))
        bound = float(farthest.values[-1]) if size < len(points) else 0.0
        picks = _pick_rows(farthest, points, squares, bound, min(count, len(points)) - rows)
        picked.append(picks)
        rows += len(picks)
        size = 2 * size if len(picks) < _FEW_PICKS else size // 2 if len(picks) > _MANY_PICKS else size


def _pick_rows(farthest: torch.return_types.topk, points: Tensor, squares: Tensor, bound: float, wanted: int) -> Tensor:
    """Pick rows among the farthest points, in order, until a point outside the set could be farther."""
    members, nearest = points[farthest.indices], farthest.values.clone()
    member_squares = squares[farthest.indices]
    picks: list[Tensor] = []
    for _ in range(wanted):
        value, place = nearest.max(0)
        if picks and (float(value) < bound or float(value) == 0):
            break
        picks.append(place)
        to_place = torch.addmv(member_squares + member_squares[place], members, members[place], alpha=-2)
        torch.minimum(nearest, to_place, out=nearest)
        nearest.masked_fill_(nearest <= _COINCIDES * member_squares, 0)
    return farthest.indices[torch.stack(picks)]


def _update_nearest(nearest: Tensor, points: Tensor, squares: Tensor, picked: Tensor) -> None:
    """Lower each point's squared distance to its nearest row, `nearest` [n], with the newly picked rows."""
    rows, row_squares = points[picked], squares[picked]
    block = max(1, _BLOCK_VALUES // len(rows))
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        # |x - r|^2 = |x|^2 + (|r|^2 - 2 x.r), the least over the rows
        least = torch.addmm(row_squares, points[part], rows.t(), alpha=-2).amin(1)
        torch.minimum(nearest[part], squares[part] + least, out=nearest[part])
    nearest.masked_fill_(nearest <= _COINCIDES * squares, 0)
