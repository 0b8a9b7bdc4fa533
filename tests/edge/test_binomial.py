"""Clopper-Pearson bounds compared with published values and with their definition."""

from __future__ import annotations

import time
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.binomial import MAX_TRIALS, lower_bound, trials_needed, upper_bound


@pytest.mark.parametrize(("trials", "bound"), [(5, 0.549), (9, 0.717), (10, 0.741), (15, 0.819)])
def test_all_detected(trials: int, bound: float) -> None:
    assert lower_bound(trials, trials, 0.95) == pytest.approx(bound, abs=5e-4)


@pytest.mark.parametrize(("trials", "bound"), [(59, 0.0495), (299, 0.00997), (40, 0.0722)])
def test_none_flagged(trials: int, bound: float) -> None:
    assert upper_bound(0, trials, 0.95) == pytest.approx(bound, abs=5e-5)


def test_bounds_of_thousands_of_trials() -> None:
    """Against scipy.stats.beta.ppf, with numbers whose binomial coefficients exceed floats."""
    assert upper_bound(200, 5000, 0.95) == pytest.approx(0.0448621, abs=1e-7)
    assert lower_bound(4800, 5000, 0.95) == pytest.approx(0.9551379, abs=1e-7)


def test_no_trials_prove_nothing() -> None:
    assert lower_bound(0, 0, 0.95) == 0.0
    assert upper_bound(0, 0, 0.95) == 1.0


@given(st.integers(1, 80), st.data(), st.floats(0.5, 0.99))
def test_bounds_meet_their_definition(trials: int, data: st.DataObject, confidence: float) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = lower_bound(hits, trials, confidence), upper_bound(hits, trials, confidence)
    assert low <= hits / trials <= high
    if hits < trials:
        tail = sum(comb(trials, k) * high**k * (1 - high) ** (trials - k) for k in range(hits + 1))
        assert tail == pytest.approx(1 - confidence, abs=1e-6)
    assert lower_bound(trials - hits, trials, confidence) == pytest.approx(1 - high, abs=1e-9)


def test_trials_needed_is_the_least_number() -> None:
    for rate in (0.05, 0.01, 0.003):
        needed = trials_needed(rate, 0.95)
        assert upper_bound(0, needed, 0.95) <= rate < upper_bound(0, needed - 1, 0.95)


def test_counts_of_a_million_take_milliseconds() -> None:
    started_s = time.monotonic()
    assert lower_bound(500_000, MAX_TRIALS, 0.95) == pytest.approx(0.4991773, abs=1e-6)
    assert upper_bound(MAX_TRIALS - 1, MAX_TRIALS, 0.95) < 1
    assert upper_bound(0, MAX_TRIALS, 0.95) == pytest.approx(2.9957e-6, rel=1e-3)
    assert trials_needed(1e-12, 0.95) == pytest.approx(2.9957e12, rel=1e-3)
    assert time.monotonic() - started_s < 1


@pytest.mark.parametrize(
    ("hits", "trials", "confidence"),
    [(2, 1, 0.95), (-1, 5, 0.95), (1, MAX_TRIALS + 1, 0.95), (0, -1, 0.95), (1, 5, 1.5), (1, 5, float("nan"))],
)
def test_counts_that_contradict_each_other_are_refused(hits: int, trials: int, confidence: float) -> None:
    for bound in (lower_bound, upper_bound):
        with pytest.raises(ValueError, match=r"hits in|is not within"):
            bound(hits, trials, confidence)


@pytest.mark.parametrize(("rate", "confidence"), [(0.0, 0.95), (-0.1, 0.95), (0.1, 1.0), (float("nan"), 0.95)])
def test_a_rate_that_no_number_of_trials_proves_is_refused(rate: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="no number of trials"):
        trials_needed(rate, confidence)
