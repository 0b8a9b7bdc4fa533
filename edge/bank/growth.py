"""Which rows a memory bank takes in so that good frames no longer alarm, and whether it may; pure.

Rows are only added where the frames lie farther from the bank than good parts do, the farthest patch first
(greedy k-center: Gonzalez, Theor. Comput. Sci. 38, 1985), until each frame is clear of the threshold. A row that is
added gets the median reach of the bundle's bank: it covers no more than a typical row does. The threshold follows the
held-out good parts, downwards alone. A bank that would let a stored defect pass is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.anomaly import center_and_spread, distances_to_rows, score_from_distances
from edge.bank.evidence import Evidence, HeldOut, StoredDefect, Tile
from edge.bank.redundant_rows import coverage_loss, most_redundant
from edge.bundle.manifest import ScoreLimit
from edge.bundle.reader import MAX_BANK_ROWS
from edge.errors import ProcunitError

MAX_ADDED_ROWS = MAX_BANK_ROWS // 4
"""Beyond this the bundle does not show what good parts look like, and a bank is made anew from photographs."""

_Distances = tuple[NDArray[np.float32], ...]
"""Of each tile of a frame the distances [P] of its patches."""


@dataclass(frozen=True, eq=False)
class GrownBank:
    """A bundle's bank `base` [M, D + 1] with the rows `added` [a, D + 1], without those `removed`, and the limit."""

    base: NDArray[np.float32]
    added: NDArray[np.float32]
    removed: tuple[int, ...]
    limit: ScoreLimit

    @property
    def rows(self) -> NDArray[np.float32]:
        """What is searched: float32 [M - removed + a, D + 1]."""
        kept = np.delete(self.base, self.removed, axis=0) if self.removed else self.base
        return np.concatenate([kept, self.added])


@dataclass(frozen=True, eq=False)
class GoodFrame:
    """A frame that a person has cleared."""

    name: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class FrameGrowth:
    """What one frame gave: its score before and after, and its rows."""

    name: str
    score_before: float
    score_after: float
    rows: int


@dataclass(frozen=True, eq=False)
class Growth:
    """The bank that was grown, what each frame gave to it, and its coverage loss (`edge.bank.redundant_rows`)."""

    bank: GrownBank
    frames: tuple[FrameGrowth, ...]
    coverage_loss: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a new limit keeps to.

    `own` is the bundle's limit. No more than `flagged_parts` held-out good parts may be flagged, frames taken in
    before, with the `cleared_scores`, stay clear, and each frame is `clear_spreads` below the threshold, so that
    another engine's drift flips none.
    """

    own: ScoreLimit
    flagged_parts: int
    clear_spreads: float
    cleared_scores: tuple[float, ...]

    def goal(self, limit: ScoreLimit) -> float:
        """What a frame's score has to be below."""
        return limit.threshold - self.clear_spreads * limit.spread


def own_bank(base: NDArray[np.float32], limit: ScoreLimit) -> GrownBank:
    """The bundle's bank as it came."""
    return GrownBank(base, base[:0], (), limit)


def grow(standing: GrownBank, frames: Sequence[GoodFrame], evidence: Evidence, bounds: Bounds) -> Growth:
    """The bank in which every frame is clear of the threshold.

    Raises:
        ProcunitError: that takes too many rows, or a stored defect would pass; the text names the frame.
    """
    before = [_score(frame.tiles, _distances_to(standing.rows, frame.tiles)) for frame in frames]
    bank, loss, taken = standing, _loss(standing), Counter[int]()
    while True:
        bank, new = _covering(bank, frames, evidence.good, bounds, loss)
        taken.update(new)
        bank, loss = _within_the_cap(bank)
        limit = _limit(standing.limit, evidence.good, _good_distances(evidence.good, bank.added, loss), bounds, loss)
        bank = replace(bank, limit=limit)
        after = [_score(frame.tiles, _distances_to(bank.rows, frame.tiles)) for frame in frames]
        if max(after) < bounds.goal(limit):
            break  # else the rows that were dropped covered one of the frames: it needs more of its own
    refuse_missed(evidence.defects, (own_bank(standing.base, bounds.own), standing), bank)
    told = (FrameGrowth(f.name, before[i], after[i], taken[i]) for i, f in enumerate(frames))
    return Growth(bank, tuple(told), loss)


def refuse_missed(defects: Sequence[StoredDefect], before: Sequence[GrownBank], after: GrownBank) -> None:
    """Hold a bank to the stored defects.

    Raises:
        ProcunitError: a defect that one of the banks `before` flags would pass; the text names it.
    """
    for defect in defects:
        if any(_flags(bank, defect) for bank in before) and not _flags(after, defect):
            raise ProcunitError(
                f"the grown bank would miss a stored defect: {defect.name}",
                remedy="Look at the frames again: one may show a defect. If all are good, take them into the next "
                "training instead",
            )


def _flags(bank: GrownBank, defect: StoredDefect) -> bool:
    if defect.flagged_by_type:
        return True
    distances = _nearer(defect.distances, _distances_to(bank.added, defect.tiles))
    return _score(defect.tiles, distances) >= bank.limit.threshold


def _distances_to(rows: NDArray[np.float32], tiles: tuple[Tile, ...]) -> _Distances:
    return tuple(distances_to_rows(tile.patches, rows) for tile in tiles)


def _nearer(before: _Distances, others: _Distances) -> _Distances:
    return tuple(np.minimum(one, other) for one, other in zip(before, others, strict=True))


def _score(tiles: tuple[Tile, ...], distances: _Distances) -> float:
    """The anomaly score of a frame, its highest tile's."""
    return max(_tile_scores(tiles, distances))


def _tile_scores(tiles: tuple[Tile, ...], distances: _Distances) -> list[float]:
    return [score_from_distances(far, tile.counted) for tile, far in zip(tiles, distances, strict=True)]


def _good_distances(good: HeldOut, added: NDArray[np.float32], loss: float) -> NDArray[np.float32]:
    """Distances [n, K] to a bank with rows added, and others dropped at this loss (`edge.bank.redundant_rows`)."""
    before = good.distances + np.float32(loss)
    return np.asarray(np.minimum(before, distances_to_rows(good.patches, added)), np.float32)


def _covering(
    bank: GrownBank, frames: Sequence[GoodFrame], good: HeldOut, bounds: Bounds, loss: float
) -> tuple[GrownBank, list[int]]:
    """The bank with rows by which every frame is clear of the threshold, and which frame each of them is from."""
    covered = float(np.median(good.distances[:, -1]))
    reach = np.median(bank.base[:, -1:], axis=0, keepdims=True).astype(np.float32)
    good_distances = _good_distances(good, bank.added, loss)
    distances = [_distances_to(bank.rows, frame.tiles) for frame in frames]
    added, taken = bank.added, list[int]()
    while True:
        goal = bounds.goal(_limit(bank.limit, good, good_distances, bounds, loss))
        scores = [_score(frame.tiles, own) for frame, own in zip(frames, distances, strict=True)]
        worst = int(np.argmax(scores))
        if scores[worst] < goal:
            return replace(bank, added=added), taken
        if len(added) == MAX_ADDED_ROWS:
            raise ProcunitError(
                f"more than {MAX_ADDED_ROWS} rows would have to be added",
                where=frames[worst].name,
                remedy="Take the frames into the next training instead",
            )
        row = np.concatenate([_farthest_patch(frames[worst], distances[worst], covered), reach], axis=1)
        added = np.concatenate([added, row])
        taken.append(worst)
        good_distances = np.minimum(good_distances, distances_to_rows(good.patches, row))
        distances = [
            _nearer(own, _distances_to(row, frame.tiles)) for frame, own in zip(frames, distances, strict=True)
        ]


def _farthest_patch(frame: GoodFrame, distances: _Distances, covered: float) -> NDArray[np.float32]:
    """The patch [1, D] that the bank covers least, of the tile with the highest score."""
    tile = int(np.argmax(_tile_scores(frame.tiles, distances)))
    patch = int(np.argmax(distances[tile]))
    if distances[tile][patch] <= covered:
        raise ProcunitError(
            "every patch of the frame lies where good parts do, and still it is not clear of the threshold",
            where=frame.name,
            remedy="The threshold is too low for these parts: calibrate anew with more good ones",
        )
    return frame.tiles[tile].patches[patch : patch + 1]


def _limit(
    standing: ScoreLimit, good: HeldOut, distances: NDArray[np.float32], bounds: Bounds, loss: float
) -> ScoreLimit:
    """The limit with the bundle's margin in spreads over the held-out good parts at these distances [n, K].

    Patches that are not kept count as far as the last one can be, so that no good part's score comes out too low.
    """
    unkept = good.distances[:, -1] + np.float32(loss)
    parts: dict[str, float] = {}
    typed = set()
    for part_id, flagged, counted, kept, last in zip(
        good.part_ids, good.flagged_by_type, good.counted, distances, unkept, strict=True
    ):
        score = score_from_distances(np.append(kept, np.repeat(last, counted)), counted)
        parts[part_id] = max(parts.get(part_id, 0.0), score)
        if flagged:
            typed.add(part_id)
    center, spread = (float(value[0]) for value in center_and_spread(np.array(list(parts.values()))[:, np.newaxis]))
    margin = (bounds.own.threshold - bounds.own.center) / bounds.own.spread
    above = [score + bounds.clear_spreads * spread for score in bounds.cleared_scores]
    untyped = sorted((score for part_id, score in parts.items() if part_id not in typed), reverse=True)
    above += untyped[max(0, bounds.flagged_parts - len(typed)) :][:1]
    threshold = max([center + margin * spread, *(float(np.nextafter(score, np.inf)) for score in above)])
    return ScoreLimit(threshold=min(threshold, standing.threshold), center=center, spread=spread)


def _within_the_cap(bank: GrownBank) -> tuple[GrownBank, float]:
    """The bank without the rows that are beyond the cap, and its coverage loss."""
    excess = len(bank.base) - len(bank.removed) + len(bank.added) - MAX_BANK_ROWS
    if excess > 0:
        bank = replace(bank, removed=most_redundant(bank.base, bank.removed, bank.added, excess))
    return bank, _loss(bank)


def _loss(bank: GrownBank) -> float:
    return coverage_loss(bank.base, bank.removed, bank.added)
