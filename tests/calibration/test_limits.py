"""Limits from good parts: the claim about false alarms, against repeated draws and against the device's own rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.limits import (
    CONFIDENCE,
    leave_one_out_margins,
    limits_from_good_parts,
    most_flagged,
    parts_needed,
)
from edge.anomaly import center_and_spread
from edge.binomial import upper_bound
from edge.bundle.manifest import ScoreLimit
from edge.messages import Scores
from edge.policy import alarm_margin, sigmoid

DRAWS = 300
PARTS, SCORES = 40, 6


def _skewed_parts(rng: np.random.Generator, parts: int) -> NDArray[np.float64]:
    """Six correlated scores of unlike shapes: normal, log-normal, heavy and light in the tail."""
    common, own = rng.normal(size=(parts, 1)), rng.normal(size=(parts, SCORES))
    normal: NDArray[np.float64] = np.sqrt(0.5) * common + np.sqrt(0.5) * own
    normal[:, 0] = np.exp(0.8 * normal[:, 0])
    normal[:, 1] = np.sign(normal[:, 1]) * np.abs(normal[:, 1]) ** 1.7
    normal[:, 2] = -np.exp(-0.8 * normal[:, 2])
    return normal


@pytest.mark.parametrize("asked_rate", [None, 0.15])
def test_true_false_alarm_rate_stays_within_the_claim_in_nearly_all_draws(asked_rate: float | None) -> None:
    rng = np.random.default_rng(7)
    line = _skewed_parts(rng, 20_000)
    held = 0
    for _ in range(DRAWS):
        limits = limits_from_good_parts(_skewed_parts(rng, PARTS), asked_rate)
        true_rate = np.mean(np.any(line >= limits.thresholds, axis=1))
        held += bool(true_rate <= limits.budget.false_alarm_rate)
    assert held / DRAWS >= 0.93


def test_in_sample_margins_would_break_the_claim_that_leave_one_out_margins_keep() -> None:
    """Six parts and six scores: limits that include the part itself hide how far out it is."""
    rng = np.random.default_rng(3)
    line = _skewed_parts(rng, 20_000)
    held = {"in sample": 0, "left out": 0}
    for _ in range(DRAWS):
        parts = _skewed_parts(rng, 6)
        center, spread = center_and_spread(parts)
        claimed = upper_bound(0, len(parts), CONFIDENCE)
        line_margins = np.max((line - center) / spread, axis=1)
        largest = {"in sample": np.max((parts - center) / spread), "left out": np.max(leave_one_out_margins(parts))}
        for kind, margin in largest.items():
            held[kind] += bool(np.mean(line_margins > margin) <= claimed)
    assert held["left out"] / DRAWS >= 0.93
    assert held["in sample"] < held["left out"]


def test_no_part_is_flagged_unless_more_is_asked_for() -> None:
    parts = np.random.default_rng(0).normal(size=(PARTS, SCORES))
    limits = limits_from_good_parts(parts)
    assert not np.any(parts >= limits.thresholds)
    assert limits.budget.flagged_parts == 0
    assert limits.budget.false_alarm_rate == pytest.approx(1 - 0.05 ** (1 / PARTS))


def test_an_asked_budget_lowers_the_thresholds_as_far_as_the_parts_support_it() -> None:
    parts = np.random.default_rng(0).normal(size=(200, SCORES))
    smallest, asked = limits_from_good_parts(parts), limits_from_good_parts(parts, 0.05)
    assert asked.budget.flagged_parts == most_flagged(200, 0.05) == 4
    assert asked.budget.false_alarm_rate <= 0.05 < upper_bound(5, 200, CONFIDENCE)
    assert np.all(asked.thresholds < smallest.thresholds)


def test_a_budget_beyond_the_parts_falls_back_to_the_smallest_supported() -> None:
    parts = np.random.default_rng(0).normal(size=(PARTS, SCORES))
    limits = limits_from_good_parts(parts, 0.01)
    assert limits.budget.flagged_parts == 0
    assert limits.budget.false_alarm_rate > 0.01
    assert parts_needed(0.01) == 299


def test_equal_scores_keep_a_spread_and_are_not_flagged() -> None:
    parts = np.full((12, 3), 2.5)
    limits = limits_from_good_parts(parts)
    assert np.all(limits.spread > 0)
    assert not np.any(parts >= limits.thresholds)


def test_one_good_part_is_a_budget_of_nearly_everything() -> None:
    limits = limits_from_good_parts(np.array([[0.3, 1.2]]))
    assert limits.budget.false_alarm_rate == pytest.approx(0.95)
    assert np.all(limits.thresholds > [0.3, 1.2])


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=2), st.floats(0, 10))
def test_the_margin_is_the_policys_own(logits: list[float], distance: float) -> None:
    center, spread = np.array([-2.0, -1.0, 3.0]), np.array([0.5, 2.0, 0.25])
    types = tuple(ScoreLimit(threshold=0.5, center=c, spread=s) for c, s in ((-2.0, 0.5), (-1.0, 2.0)))
    anomaly = ScoreLimit(threshold=5.0, center=3.0, spread=0.25)
    maps = np.zeros((1, 2, 1, 1), np.float32)
    scores = Scores(tuple(sigmoid(value) for value in logits), distance, maps, maps[:, 0])
    ours = np.max((np.array([*logits, distance]) - center) / spread)
    assert alarm_margin(scores, types, anomaly) == pytest.approx(ours, abs=1e-6)
