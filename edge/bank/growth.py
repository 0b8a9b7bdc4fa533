"""Grow a memory bank: choose rows to add so that good frames are no longer flagged. Pure functions.

Only patches farther from the bank than good parts are added, the farthest first (greedy k-center: Gonzalez, Theor.
Comput. Sci. 38, 1985), until every frame is below the threshold with a margin. An added row gets the median local scale
of the bundle's bank, so it covers no more than a typical row. The threshold follows the held-out good parts, but never
rises. A bank that would no longer flag a stored defect is refused.
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
"""If more rows are needed, the bundle does not represent good parts: make a new bank from photographs."""

_Distances = tuple[NDArray[np.float32], ...]
"""For each tile of a frame the distances [P] of its patches."""


@dataclass(frozen=True, eq=False)
class GrownBank:
    """The bundle's bank `base` [M, D + 1], `added` rows [a, D + 1], the base's `removed` row indices, and the limit."""

    base: NDArray[np.float32]
    added: NDArray[np.float32]
    removed: tuple[int, ...]
    limit: ScoreLimit

    @property
    def rows(self) -> NDArray[np.float32]:
        """All rows of the bank, float32 [M - removed + a, D + 1]."""
        kept = np.delete(self.base, self.removed, axis=0) if self.removed else self.base
        return np.concatenate([kept, self.added])


@dataclass(frozen=True, eq=False)
class GoodFrame:
    """A frame that a person has labelled good."""

    name: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class FrameGrowth:
    """What one frame contributed: its score before and after, and the number of its rows."""

    name: str
    score_before: float
    score_after: float
    rows: int


@dataclass(frozen=True, eq=False)
class Growth:
    """The grown bank, the contribution of each frame, and the coverage loss (`edge.bank.redundant_rows`)."""

    bank: GrownBank
    frames: tuple[FrameGrowth, ...]
    coverage_loss: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Constraints on the new anomaly limit.

    `own` is the bundle's limit. At most `flagged_parts` held-out good parts may be flagged. Every frame must be
    `clear_spreads` below the threshold, so that the drift of another engine flips none; so must the frames of earlier
    versions, whose scores are `cleared_scores`.
    """

    own: ScoreLimit
    flagged_parts: int
    clear_spreads: float
    cleared_scores: tuple[float, ...]

    def goal(self, limit: ScoreLimit) -> float:
        """The bound that every frame's score has to stay below."""
        return limit.threshold - self.clear_spreads * limit.spread


def own_bank(base: NDArray[np.float32], limit: ScoreLimit) -> GrownBank:
    """The bundle's bank before any growth."""
    return GrownBank(base, base[:0], (), limit)


def grow(current: GrownBank, frames: Sequence[GoodFrame], evidence: Evidence, bounds: Bounds) -> Growth:
    """Add rows to the current bank until the score of every frame is below `bounds.goal`.

    Raises:
        ProcunitError: that takes too many rows, or a stored defect would be missed; the text names the frame.
    """
    before = [_score(frame.tiles, _distances_to(current.rows, frame.tiles)) for frame in frames]
    bank, loss, rows_of_frame = current, _loss(current), Counter[int]()
    while True:
        bank, sources = _with_covering_rows(bank, frames, evidence.good, bounds, loss)
        rows_of_frame.update(sources)
        bank, loss = _without_redundant_rows(bank)
        limit = _limit(current.limit, evidence.good, _good_distances(evidence.good, bank.added, loss), bounds, loss)
        bank = replace(bank, limit=limit)
        after = [_score(frame.tiles, _distances_to(bank.rows, frame.tiles)) for frame in frames]
        if max(after) < bounds.goal(limit):
            break  # otherwise a dropped row covered one of the frames, which now needs more rows
    refuse_missed(evidence.defects, (own_bank(current.base, bounds.own), current), bank)
    growths = (FrameGrowth(f.name, before[i], after[i], rows_of_frame[i]) for i, f in enumerate(frames))
    return Growth(bank, tuple(growths), loss)


def refuse_missed(defects: Sequence[StoredDefect], before: Sequence[GrownBank], after: GrownBank) -> None:
    """Check that the bank `after` still flags every stored defect.

    Raises:
        ProcunitError: a defect that one of the banks `before` flags would be missed; the text names it.
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
    return tuple(np.minimum(own, other) for own, other in zip(before, others, strict=True))


def _score(tiles: tuple[Tile, ...], distances: _Distances) -> float:
    """The anomaly score of a frame: the highest of its tiles."""
    return max(_tile_scores(tiles, distances))


def _tile_scores(tiles: tuple[Tile, ...], distances: _Distances) -> list[float]:
    return [score_from_distances(far, tile.counted) for tile, far in zip(tiles, distances, strict=True)]


def _good_distances(good: HeldOut, added: NDArray[np.float32], loss: float) -> NDArray[np.float32]:
    """Upper bounds on the distances [n, K] to the bank with `added` rows, after dropping rows at this coverage loss."""
    before = good.distances + np.float32(loss)
    return np.asarray(np.minimum(before, distances_to_rows(good.patches, added)), np.float32)


def _with_covering_rows(
    bank: GrownBank, frames: Sequence[GoodFrame], good: HeldOut, bounds: Bounds, loss: float
) -> tuple[GrownBank, list[int]]:
    """The bank with rows added until every score is below `bounds.goal`, and the frame index of each added row."""
    covered = float(np.median(good.distances[:, -1]))
    scale = np.median(bank.base[:, -1:], axis=0, keepdims=True).astype(np.float32)
    good_distances = _good_distances(good, bank.added, loss)
    distances = [_distances_to(bank.rows, frame.tiles) for frame in frames]
    added, sources = bank.added, list[int]()
    while True:
        goal = bounds.goal(_limit(bank.limit, good, good_distances, bounds, loss))
        scores = [_score(frame.tiles, own) for frame, own in zip(frames, distances, strict=True)]
        worst = int(np.argmax(scores))
        if scores[worst] < goal:
            return replace(bank, added=added), sources
        if len(added) == MAX_ADDED_ROWS:
            raise ProcunitError(
                f"more than {MAX_ADDED_ROWS} rows would have to be added",
                where=frames[worst].name,
                remedy="Take the frames into the next training instead",
            )
        row = np.concatenate([_farthest_patch(frames[worst], distances[worst], covered), scale], axis=1)
        added = np.concatenate([added, row])
        sources.append(worst)
        good_distances = np.minimum(good_distances, distances_to_rows(good.patches, row))
        distances = [
            _nearer(own, _distances_to(row, frame.tiles)) for frame, own in zip(frames, distances, strict=True)
        ]


def _farthest_patch(frame: GoodFrame, distances: _Distances, covered: float) -> NDArray[np.float32]:
    """The patch [1, D] farthest from the bank, in the tile with the highest score."""
    tile = int(np.argmax(_tile_scores(frame.tiles, distances)))
    patch = int(np.argmax(distances[tile]))
    if distances[tile][patch] <= covered:
        raise ProcunitError(
            "every patch of the frame is as near to the bank as good parts are, yet its score is too high",
            where=frame.name,
            remedy="The threshold is too low for these parts: calibrate again with more good parts",
        )
    return frame.tiles[tile].patches[patch : patch + 1]


def _limit(
    current: ScoreLimit, good: HeldOut, distances: NDArray[np.float32], bounds: Bounds, loss: float
) -> ScoreLimit:
    """The limit for the held-out good parts at these distances [n, K], with the bundle's margin in spreads.

    Patches that are not kept count with the largest distance they can have, so that no good part's score is too low.
    """
    unkept = good.distances[:, -1] + np.float32(loss)
    parts: dict[str, float] = {}
    type_flagged = set()
    for part_id, flagged, counted, kept, last in zip(
        good.part_ids, good.flagged_by_type, good.counted, distances, unkept, strict=True
    ):
        score = score_from_distances(np.append(kept, np.repeat(last, counted)), counted)
        parts[part_id] = max(parts.get(part_id, 0.0), score)
        if flagged:
            type_flagged.add(part_id)
    center, spread = (float(value[0]) for value in center_and_spread(np.array(list(parts.values()))[:, np.newaxis]))
    margin = (bounds.own.threshold - bounds.own.center) / bounds.own.spread
    above = [score + bounds.clear_spreads * spread for score in bounds.cleared_scores]
    other_scores = sorted((score for part_id, score in parts.items() if part_id not in type_flagged), reverse=True)
    above += other_scores[max(0, bounds.flagged_parts - len(type_flagged)) :][:1]
    threshold = max([center + margin * spread, *(float(np.nextafter(score, np.inf)) for score in above)])
    return ScoreLimit(threshold=min(threshold, current.threshold), center=center, spread=spread)


def _without_redundant_rows(bank: GrownBank) -> tuple[GrownBank, float]:
    """The bank cut to `MAX_BANK_ROWS` by dropping its most redundant rows, and its coverage loss."""
    excess = len(bank.base) - len(bank.removed) + len(bank.added) - MAX_BANK_ROWS
    if excess > 0:
        bank = replace(bank, removed=most_redundant(bank.base, bank.removed, bank.added, excess))
    return bank, _loss(bank)


def _loss(bank: GrownBank) -> float:
    return coverage_loss(bank.base, bank.removed, bank.added)
