"""Growing a bank: no more rows than needed, a threshold that only falls, and no stored defect missed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.anomaly import counted_patches, distances_to_rows, score_from_distances
from edge.bank.evidence import Evidence, HeldOut, StoredDefect, Tile
from edge.bank.growth import Bounds, GoodFrame, GrownBank, Growth, grow, own_bank, refuse_missed
from edge.bank.redundant_rows import coverage_loss, most_redundant
from edge.bundle.manifest import ScoreLimit
from edge.bundle.reader import MAX_BANK_ROWS
from edge.errors import ProcunitError

FEATURES, PATCHES, KEPT, GOOD_PARTS = 4, 40, 4, 12
COUNTED = counted_patches(PATCHES)
Rows = NDArray[np.float32]


def rows_near(at: float, seed: int, count: int = PATCHES, wide: float = 0.1) -> Rows:
    """Patches [count, 4] around a point."""
    return np.random.default_rng(seed).normal(at, wide, (count, FEATURES)).astype(np.float32)


def bank_of(patches: Rows) -> Rows:
    """Rows [count, 5]: patches and their mean distance to the 9 nearest others."""
    apart = np.sort(np.linalg.norm(patches[:, np.newaxis] - patches, axis=2), axis=1)
    return np.column_stack([patches, apart[:, 1:10].mean(axis=1)]).astype(np.float32)


def tile_of(patches: Rows) -> Tile:
    return Tile(patches, counted_patches(len(patches)))


def frame_of(name: str, *tiles: Rows) -> GoodFrame:
    return GoodFrame(name, tuple(tile_of(patches) for patches in tiles))


BASE = bank_of(rows_near(0.0, 0, count=200))


def held_out(parts: int = GOOD_PARTS, flagged_by_type: tuple[int, ...] = ()) -> HeldOut:
    """Good photographs like the bank, one per part; part 0 differs from the others."""
    patches, distances = [], []
    for part in range(parts):
        own = rows_near(0.3 if part == 0 else 0.0, 100 + part)
        far = distances_to_rows(own, BASE)
        order = np.argsort(-far)[:KEPT]
        patches.append(own[order])
        distances.append(far[order])
    flags = tuple(part in flagged_by_type for part in range(parts))
    names = tuple(f"g{part}" for part in range(parts))
    return HeldOut(np.stack(patches), np.stack(distances), (COUNTED,) * parts, names, flags)


def own_limit(good: HeldOut, margin: float = 3.0) -> ScoreLimit:
    """The bundle's limit over these parts, which flags none, except perhaps part 0."""
    scores = np.array([score_from_distances(row, COUNTED) for row in good.distances])
    center, spread = float(np.median(scores)), float(1.4826 * np.median(np.abs(scores - np.median(scores))))
    return ScoreLimit(threshold=center + margin * spread, center=center, spread=spread)


GOOD = held_out()
LIMIT = own_limit(GOOD)
OWN_BANK = own_bank(BASE, LIMIT)
STAIN_PATCHES = np.concatenate([rows_near(0.0, 7, 25), rows_near(1.0, 8, 15)])
STAIN = frame_of("stain", STAIN_PATCHES)
PLAIN = frame_of("plain", rows_near(0.0, 9))
KNOWN = frame_of("known", BASE[[np.argmax(BASE[:, -1])], :-1])
"""A frame that lies on a row that is never dropped, and so is always clear."""


def bounds(flagged_parts: int = 1, cleared: tuple[float, ...] = ()) -> Bounds:
    return Bounds(LIMIT, flagged_parts, 0.1, cleared)


def defect(patches: Rows, name: str = "a scratch", flagged_by_type: bool = False) -> StoredDefect:
    return StoredDefect(name, flagged_by_type, (tile_of(patches),), (distances_to_rows(patches, BASE),))


def grown(*frames: GoodFrame, current: GrownBank = OWN_BANK, defects: tuple[StoredDefect, ...] = ()) -> Growth:
    return grow(current, frames, Evidence(GOOD, defects), bounds())


def score(frame: GoodFrame, rows: Rows) -> float:
    return max(score_from_distances(distances_to_rows(tile.patches, rows), tile.counted) for tile in frame.tiles)


def test_a_false_alarm_is_cleared_by_its_patches_and_by_no_more_than_needed() -> None:
    growth = grown(STAIN)
    (frame,) = growth.frames
    bank = growth.bank
    goal = bank.limit.threshold - 0.1 * bank.limit.spread
    assert frame.score_before == pytest.approx(score(STAIN, BASE))
    assert frame.score_after == pytest.approx(score(STAIN, bank.rows), abs=1e-5)
    assert frame.score_after < goal < LIMIT.threshold < frame.score_before
    assert 0 < frame.rows == len(bank.added) < PATCHES
    assert all((row[:-1] == STAIN_PATCHES).all(axis=1).any() for row in bank.added)
    assert (bank.removed, growth.coverage_loss) == ((), 0.0)
    without_the_last = np.concatenate([BASE, bank.added[:-1]])
    assert score(STAIN, without_the_last) >= goal


def test_added_rows_are_far_from_good_parts_and_have_the_typical_local_scale() -> None:
    covered = float(np.median(GOOD.distances[:, -1]))
    added = grown(STAIN).bank.added
    assert (distances_to_rows(added[:, :-1], BASE) > covered).all()
    assert (added[:, -1] == np.median(BASE[:, -1])).all()


def test_a_frame_that_is_clear_adds_no_row_and_changes_nothing() -> None:
    growth = grown(PLAIN)
    assert [frame.rows for frame in growth.frames] == [0]
    assert len(growth.bank.rows) == len(BASE)
    assert growth.bank.limit.threshold == pytest.approx(LIMIT.threshold)


def test_a_frame_also_clears_another_that_looks_the_same() -> None:
    again = frame_of("again", STAIN_PATCHES + np.float32(0.001))
    first, second = grown(STAIN, again).frames
    assert first.rows + second.rows <= grown(STAIN).frames[0].rows + 1
    assert second.score_after < LIMIT.threshold


def test_only_the_tile_that_is_flagged_adds_rows() -> None:
    frame = frame_of("two tiles", rows_near(0.0, 9, 20), STAIN_PATCHES)
    assert np.array_equal(grown(frame).bank.added, grown(STAIN).bank.added)


def test_the_threshold_falls_with_the_good_parts_and_keeps_the_bundles_margin() -> None:
    like_part_0 = frame_of("like part 0", np.concatenate([rows_near(0.9, 21, 30), GOOD.patches[0]]))
    limit = grown(like_part_0).bank.limit
    assert limit.threshold <= LIMIT.threshold
    assert limit.threshold <= limit.center + 3.0 * limit.spread + 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), at=st.floats(-2, 2), frames=st.integers(1, 3))
def test_the_threshold_never_rises_and_flags_no_more_good_parts_than_the_budget(
    seed: int, at: float, frames: int
) -> None:
    mixed = [np.concatenate([rows_near(0, seed + n, 20), rows_near(at + n, seed + 10 + n, 20)]) for n in range(frames)]
    bank = grown(*(frame_of(f"{n}", patches) for n, patches in enumerate(mixed))).bank
    assert bank.limit.threshold <= LIMIT.threshold
    flagged = [
        score_from_distances(np.minimum(far, distances_to_rows(own, bank.added)), COUNTED) >= bank.limit.threshold
        for own, far in zip(GOOD.patches, GOOD.distances, strict=True)
    ]
    assert sum(flagged) <= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    inspected=st.lists(st.integers(20, 100), min_size=1, max_size=3),
    added=st.integers(0, 8),
    dropped=st.integers(0, 150),
)
def test_no_good_parts_distance_is_underestimated(seed: int, inspected: list[int], added: int, dropped: int) -> None:
    """Even if only some patches are kept, the tiles average different numbers of patches, and rows are dropped."""
    frame = frame_of("apart", *(rows_near(0.1, seed + n, count, wide=0.15) for n, count in enumerate(inspected)))
    patches = np.concatenate([tile.patches for tile in frame.tiles])
    distances = distances_to_rows(patches, BASE)
    kept = np.argsort(-distances)[: 2 * max(tile.counted for tile in frame.tiles)]
    counted = min(tile.counted for tile in frame.tiles)
    good = HeldOut(patches[np.newaxis, kept], distances[np.newaxis, kept], (counted,), ("g0",), (False,))
    more = np.column_stack([patches[kept][:added], np.full(min(added, len(kept)), np.median(BASE[:, -1]), np.float32)])
    current = GrownBank(BASE, more, most_redundant(BASE, (), more, dropped), LIMIT.model_copy(update={"threshold": 99}))
    bank = grow(current, [KNOWN], Evidence(good, ()), bounds()).bank
    assert bank.limit.center >= score(frame, bank.rows) - 1e-4


def test_patches_near_a_dropped_row_count_as_farther_whether_they_are_kept_or_not() -> None:
    base = np.concatenate([BASE, np.array([[2, 0, 0, 0, 0.5], [2.4, 0, 0, 0, 0.5]], np.float32)])
    kept = np.array([[2.9, 0, 0, 0], [2.8, 0, 0, 0], [2.6, 0, 0, 0], [2.6, 0, 0, 0]], np.float32)
    unkept = np.array([[2.4, 0.2, 0, 0]] * (PATCHES - KEPT), np.float32)
    distances = distances_to_rows(kept, base)
    good = HeldOut(kept[np.newaxis], distances[np.newaxis], (COUNTED,), ("g0",), (False,))
    on_kept = np.column_stack([kept, np.full(KEPT, 0.1, np.float32)])
    for added in (BASE[:0], on_kept):
        current = GrownBank(base, added, (len(base) - 1,), LIMIT.model_copy(update={"threshold": 99}))
        bank = grow(current, [KNOWN], Evidence(good, ()), bounds()).bank
        assert bank.removed == current.removed
        true = score(frame_of("apart", np.concatenate([kept, unkept])), bank.rows)
        assert bank.limit.center >= true - 1e-4 > float(distances[-1])


@pytest.mark.parametrize(("flagged_parts", "typed", "flagged"), [(1, (), True), (0, (), False), (1, (5,), False)])
def test_the_budget_includes_parts_that_a_type_flags(flagged_parts: int, typed: tuple[int, ...], flagged: bool) -> None:
    good = held_out(flagged_by_type=typed)
    high = ScoreLimit(threshold=5.0, center=LIMIT.center, spread=(5.0 - LIMIT.center) / 3)
    limits = Bounds(
        ScoreLimit(threshold=LIMIT.threshold, center=LIMIT.center, spread=LIMIT.spread), flagged_parts, 0.1, ()
    )
    bank = grow(own_bank(BASE, high), [PLAIN], Evidence(good, ()), limits).bank
    assert (score_from_distances(good.distances[0], COUNTED) >= bank.limit.threshold) is flagged


def test_the_frames_of_earlier_versions_stay_clear() -> None:
    cleared = LIMIT.threshold - 0.01
    high = own_bank(BASE, LIMIT.model_copy(update={"threshold": 5 * LIMIT.threshold}))
    limit = grow(high, [PLAIN], Evidence(GOOD, ()), bounds(cleared=(cleared + 0.2,))).bank.limit
    assert cleared + 0.2 < limit.threshold - 0.1 * limit.spread + 1e-9


def test_a_bank_that_would_miss_a_stored_defect_is_refused_and_the_defect_named() -> None:
    scratch = STAIN_PATCHES + np.float32(0.001)
    with pytest.raises(ProcunitError, match="would miss a stored defect: a scratch") as refused:
        grown(STAIN, defects=(defect(rows_near(5.0, 3), "far away"), defect(scratch)))
    assert "Look at the frames again" in str(refused.value)
    other = np.concatenate([rows_near(0.0, 30, 25), rows_near(-1.0, 31, 15)])
    assert grown(STAIN, defects=(defect(other), defect(scratch, flagged_by_type=True))).bank.added.size


def test_a_defect_that_only_the_bundle_flags_must_still_be_flagged() -> None:
    """An earlier version may have been made before the defect was known."""
    scratch = defect(STAIN_PATCHES + np.float32(0.001))
    current = grown(STAIN).bank
    with pytest.raises(ProcunitError, match="a scratch"):
        grown(PLAIN, current=current, defects=(scratch,))
    refuse_missed((scratch,), (current,), current)


def test_a_second_growth_adds_to_the_first() -> None:
    first = grown(STAIN).bank
    other = frame_of("other", np.concatenate([rows_near(0.0, 40, 25), rows_near(-1.0, 41, 15)]))
    second = grown(other, current=first).bank
    assert np.array_equal(second.added[: len(first.added)], first.added)
    assert score(STAIN, second.rows) < second.limit.threshold
    assert second.limit.threshold <= first.limit.threshold


def test_a_frame_that_rows_cannot_clear_is_named() -> None:
    low = own_bank(BASE, LIMIT.model_copy(update={"threshold": LIMIT.center / 10}))
    with pytest.raises(ProcunitError, match="every patch of the frame is as near to the bank as good parts") as refused:
        grow(low, [STAIN], Evidence(GOOD, ()), bounds())
    assert refused.value.where == "stain"


def test_more_rows_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.bank.growth.MAX_ADDED_ROWS", 1)
    with pytest.raises(ProcunitError, match="more than 1 rows"):
        grown(STAIN)


def test_a_full_bank_drops_its_most_redundant_rows_and_reports_the_loss() -> None:
    numbers = np.random.default_rng(5)
    twins = BASE[numbers.integers(0, len(BASE), MAX_BANK_ROWS - len(BASE))]
    twins[:, :-1] += numbers.normal(0, 1e-4, twins[:, :-1].shape)
    full = np.concatenate([BASE, twins])
    growth = grown(STAIN, current=own_bank(full, LIMIT))
    assert len(growth.bank.rows) == MAX_BANK_ROWS
    assert len(growth.bank.removed) == len(growth.bank.added) > 0
    assert growth.coverage_loss == coverage_loss(full, growth.bank.removed, growth.bank.added)
    assert 0 < growth.coverage_loss < 0.01
    assert growth.frames[0].score_after == pytest.approx(score(STAIN, growth.bank.rows))


def test_a_frame_that_a_dropped_row_covered_gets_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.bank.growth.MAX_BANK_ROWS", len(BASE))
    wide = frame_of("wide", np.concatenate([rows_near(0.0, 7), rows_near(2.0, 8, 100, wide=1.0)]))
    plain = frame_of("plain", np.concatenate([rows_near(0.0, seed) for seed in range(50, 56)]))
    just_above = LIMIT.model_copy(update={"threshold": score(plain, BASE) + 0.2 * LIMIT.spread})
    growth = grown(wide, plain, current=own_bank(BASE, just_above))
    limit = growth.bank.limit
    goal = limit.threshold - 0.1 * limit.spread
    assert len(growth.bank.rows) == len(BASE)
    assert growth.frames[1].score_before < goal  # clear before rows were dropped
    assert growth.frames[1].rows > 0
    assert sum(frame.rows for frame in growth.frames) == len(growth.bank.added)
    for frame, growth_of_frame in zip((wide, plain), growth.frames, strict=True):
        assert growth_of_frame.score_after == pytest.approx(score(frame, growth.bank.rows), abs=1e-5)
        assert growth_of_frame.score_after < goal
