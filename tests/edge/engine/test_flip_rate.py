"""Predicted flips: none without drift, never fewer with more drift, and near the truth where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.bundle.manifest import DefectType, ScoreLimit
from edge.bundle.records import PhotoScores
from edge.engine.flip_rate import DEFECT_SHARE, MAX_FLIP_RATE, Excesses, excesses_from_scores

NONE = np.zeros((0, 2))
LIMIT = ScoreLimit(threshold=1.0, center=0.0, spread=0.5)
TYPE = DefectType(name="dent", images=1, parts=1, limit=ScoreLimit(threshold=0.5, center=-3.0, spread=2.0))


def good_parts(parts: int, seed: int = 0) -> NDArray[np.float64]:
    """Excesses of good parts with limits from these very parts, as calibration sets them: the largest is 0."""
    margins = standard_scores(parts, seed)
    return margins - np.max(margins)


def standard_scores(parts: int, seed: int) -> NDArray[np.float64]:
    draw = np.random.default_rng(seed)
    return np.asarray(0.7 * draw.normal(size=(parts, 6)) + 0.7 * draw.normal(size=(parts, 1)), np.float64)


def drift_of(spreads: float, scores: int = 6) -> NDArray[np.float64]:
    return np.full(scores, spreads)


def test_without_drift_no_part_flips_though_one_is_on_its_threshold() -> None:
    parts = good_parts(40)
    assert parts.max() == 0
    excesses = Excesses(parts, parts + 3)
    assert excesses.flip_rate(drift_of(0)) == 0
    assert 0 < excesses.flip_rate(drift_of(1e-6)) < 1e-6


@pytest.mark.parametrize("parts", [2, 12, 40, 200])
def test_a_drift_of_one_spread_is_far_too_much(parts: int) -> None:
    assert Excesses(good_parts(parts), np.zeros((0, 6))).flip_rate(drift_of(1)) > 3 * MAX_FLIP_RATE


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    drift=st.lists(st.floats(0, 5), min_size=6, max_size=6),
    more=st.lists(st.floats(0, 5), min_size=6, max_size=6),
)
def test_more_drift_of_any_score_never_flips_fewer(seed: int, drift: list[float], more: list[float]) -> None:
    excesses = Excesses(good_parts(15, seed), good_parts(7, seed + 1) + 1)
    less = excesses.flip_rate(np.array(drift))
    assert 0 <= less <= excesses.flip_rate(np.array(drift) + np.array(more)) + 1e-12
    assert less <= 1


@pytest.mark.parametrize("parts", [20, 60])
def test_on_average_the_prediction_matches_new_parts(parts: int) -> None:
    drift, new_parts = 0.3, standard_scores(40_000, seed=1000)
    predicted, true = [], []
    for seed in range(60):
        margins = standard_scores(parts, seed)
        predicted.append(Excesses(margins - margins.max(), np.zeros((0, 6))).flip_rate(drift_of(drift)))
        distance = (new_parts - margins.max()).max(axis=1)
        up = np.mean((distance < 0) & (distance + drift >= 0))
        down = np.mean((distance >= 0) & (distance - drift < 0))
        true.append(max(up, down))
    assert 0.8 < np.mean(predicted) / np.mean(true) < 1.6


def test_only_the_largest_excess_counts() -> None:
    parts = np.column_stack([good_parts(30)[:, 0] - good_parts(30)[:, 0].max(), np.full(30, -20.0)])
    excesses = Excesses(parts, NONE)
    assert excesses.flip_rate(np.array([0.0, 0.5])) == 0
    assert excesses.flip_rate(np.array([0.5, 0.0])) > MAX_FLIP_RATE


def test_good_parts_and_defects_are_weighted_as_on_the_line() -> None:
    clear, near = np.full((30, 2), -50.0), np.column_stack([np.linspace(-1, 1, 30), np.full(30, -50.0)])
    of_near = Excesses(near, NONE).flip_rate(drift_of(0.1, 2))
    assert Excesses(NONE, near).flip_rate(drift_of(0.1, 2)) == pytest.approx(of_near)
    assert Excesses(clear, near).flip_rate(drift_of(0.1, 2)) == pytest.approx(DEFECT_SHARE * of_near)
    assert Excesses(near, clear).flip_rate(drift_of(0.1, 2)) == pytest.approx((1 - DEFECT_SHARE) * of_near)


def test_the_largest_drift_of_a_score_just_keeps_within_the_allowed_flips() -> None:
    excesses = Excesses(good_parts(40), np.zeros((0, 6)))
    for score in range(6):
        largest = excesses.largest_drift(score, 5.0)
        alone = np.eye(6)[score]
        assert excesses.flip_rate(largest * alone) <= MAX_FLIP_RATE
        assert largest == 5.0 or excesses.flip_rate(1.01 * largest * alone) > MAX_FLIP_RATE
    assert Excesses(good_parts(40) - 50, np.zeros((0, 6))).largest_drift(0, 0.1) == 0.1


def test_a_part_has_the_largest_excess_of_its_photographs_and_is_a_defect_if_one_is() -> None:
    def photo(part_id: str, label: str, score: float, distance: float) -> PhotoScores:
        return PhotoScores(sha256="0", part_id=part_id, label=label, type_scores=(score,), anomaly_score=distance)

    photos = [photo("a", "good", 0.5, 0.0), photo("a", "good", 0.1, 2.0), photo("b", "good", 0.5, 1.0)]
    photos.append(photo("b", "dent", 0.5, 1.5))
    excesses = excesses_from_scores(photos, (TYPE,), LIMIT)
    np.testing.assert_allclose(excesses.good, [[0.0, 2.0]])
    np.testing.assert_allclose(excesses.defects, [[0.0, 1.0]])
    assert excesses_from_scores(photos[:2], (TYPE,), None).defects.shape == (0, 1)
