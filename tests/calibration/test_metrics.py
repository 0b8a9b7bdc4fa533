"""Figures against scikit-learn, against plain loops and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from calibration.metrics import agreement, auc, auc_ci95, escape_rate, size_scores

_scores = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=30).map(np.array)
_none = np.zeros(0)


@given(_scores, _scores)
def test_auc_is_scikit_learns_ties_included(positive: np.ndarray, negative: np.ndarray) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    assert auc(positive, negative) == pytest.approx(roc_auc_score(truth, np.concatenate([positive, negative])))


def test_auc_needs_both_kinds() -> None:
    assert auc(_none, np.ones(3)) is None
    assert auc(np.ones(3), _none) is None
    assert auc_ci95(np.ones(1), np.ones(3)) is None


def test_the_interval_is_a_plain_stratified_bootstraps() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.normal(1.0, 1, 15), rng.normal(0, 1, 40)
    draws = [auc(rng.choice(positive, 15), rng.choice(negative, 40)) for _ in range(4000)]
    expected = np.percentile(np.array(draws, np.float64), [2.5, 97.5])
    assert auc_ci95(positive, negative) == pytest.approx(tuple(expected), abs=0.012)
    assert auc_ci95(positive, negative) == auc_ci95(positive, negative)


def test_the_interval_covers_the_true_auc_in_most_draws() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        interval = auc_ci95(rng.normal(1.0, 1, 30), rng.normal(0, 1, 60))
        assert interval is not None
        covered += interval[0] <= 0.760 <= interval[1]
    assert covered >= 51


def test_escapes_at_a_false_alarm_rate_by_hand() -> None:
    good, defects = np.arange(1.0, 21.0), np.array([0.5, 19.5, 20.5, 30.0])
    assert escape_rate(good, defects, 0.0) == pytest.approx(0.50)  # above the largest good part: 20.5 and 30 found
    assert escape_rate(good, defects, 0.05) == pytest.approx(0.25)  # one good part in twenty: 19.5 found too
    assert escape_rate(good, defects, 0.025) == pytest.approx(0.375)  # half-way between the two thresholds
    assert escape_rate(good, defects, 1.0) == pytest.approx(0.0)


def test_escapes_of_perfect_and_of_useless_scores() -> None:
    assert escape_rate(np.zeros(10), np.ones(10), 0.01) == 0.0
    assert escape_rate(np.zeros(10), np.zeros(10), 0.05) == pytest.approx(0.95)
    assert escape_rate(_none, np.ones(3), 0.01) is None
    assert escape_rate(np.ones(3), _none, 0.01) is None


def test_agreement_counts_parts_with_more_than_one_photograph() -> None:
    assert agreement([["pass", "pass"], ["pass", "review"], ["reject"]]) == 0.5
    assert agreement([["pass"], ["review"]]) is None


def test_size_alone_predicts_defects_that_correlate_with_size() -> None:
    rng = np.random.default_rng(0)
    defective = np.arange(80) % 2 == 1
    sizes = np.stack([rng.integers(300, 340, 80), np.where(defective, 200, 300) + rng.integers(0, 40, 80)], axis=1)
    parts = [f"p{index // 2}-{index % 2}" for index in range(80)]
    scores = size_scores(sizes.astype(np.float64), defective, parts)
    assert scores is not None
    assert auc(scores[defective], scores[~defective]) == 1.0


def test_equal_sizes_predict_nothing() -> None:
    defective = np.arange(60) % 3 == 0
    scores = size_scores(np.full((60, 2), 320.0), defective, [str(index) for index in range(60)])
    assert scores is not None
    assert auc(scores[defective], scores[~defective]) == pytest.approx(0.5, abs=0.01)


def test_size_alone_is_cross_validated_by_part() -> None:
    """Parts of unique sizes with random labels: size predicts labels within parts, but not across parts."""
    rng = np.random.default_rng(5)
    part_sizes, part_defective = rng.uniform(200, 600, (60, 2)), rng.random(60) < 0.5
    rows = np.repeat(np.arange(60), 4)
    scores = size_scores(part_sizes[rows], part_defective[rows], [str(row) for row in rows])
    assert scores is not None
    figure = auc(scores[part_defective[rows]], scores[~part_defective[rows]])
    assert figure is not None
    assert figure < 0.65


def test_size_alone_needs_two_parts_of_either_kind() -> None:
    assert size_scores(np.ones((3, 2)), np.array([True, False, False]), ["a", "b", "c"]) is None
    assert size_scores(np.zeros((0, 2)), np.zeros(0, np.bool_), []) is None
