"""Exact one-sided binomial bounds (Clopper and Pearson, Biometrika 26, 1934), without scipy, which the device lacks.

The probabilities come from the continued fraction of the incomplete beta function, so that a count of a million costs
no more than milliseconds; larger counts, and counts that contradict each other, are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, lgamma, log, log1p

MAX_TRIALS = 1_000_000

_BISECTIONS = 60
_TERMS = 20_000
"""The fraction needs about the square root of the count; this many are never reached."""
_TINY = 1e-300
_CONVERGED = 1e-14


def lower_bound(hits: int, trials: int, confidence: float) -> float:
    """The rate below which `hits` or more of `trials` has a probability under 1 - confidence; 0 without trials.

    Raises:
        ValueError: the counts contradict each other or exceed `MAX_TRIALS`, or the confidence is not within 0 and 1.
    """
    _check(hits, trials, confidence)
    if hits == 0:
        return 0.0
    return _root(lambda rate: _beta_cdf(hits, trials - hits + 1, rate) - (1.0 - confidence))


def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """The rate above which `hits` or fewer of `trials` has a probability under 1 - confidence; 1 without trials.

    Raises:
        ValueError: as `lower_bound`.
    """
    _check(hits, trials, confidence)
    if hits == trials:
        return 1.0
    return _root(lambda rate: (1.0 - confidence) - _beta_cdf(trials - hits, hits + 1, 1.0 - rate))


def trials_needed(rate: float, confidence: float) -> int:
    """How many trials without a hit bring `upper_bound` down to `rate`.

    Raises:
        ValueError: no number of trials does: the rate is not above 0, or the confidence not below 1.
    """
    if not 0.0 < rate <= 1.0 or not 0.0 <= confidence < 1.0:
        raise ValueError(f"no number of trials proves a rate of {rate:g} with a confidence of {confidence:g}")
    return 1 if rate == 1.0 else max(0, ceil(log(1.0 - confidence) / log1p(-rate)))


def _check(hits: int, trials: int, confidence: float) -> None:
    if not 0 <= hits <= trials <= MAX_TRIALS:
        raise ValueError(f"{hits} hits in {trials} trials: not within 0 and {MAX_TRIALS}, or more hits than trials")
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(f"a confidence of {confidence:g} is not within 0 and 1")


def _beta_cdf(a: int, b: int, x: float) -> float:
    """The regularised incomplete beta function; `hits` or more of n at rate x: a = hits, b = n - hits + 1."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: int, b: int, x: float) -> float:
    """The continued fraction by Lentz's method (Press et al., Numerical Recipes, 3rd edition, section 6.4)."""
    c, d = 1.0, 1.0 / _apart_from_0(1.0 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _apart_from_0(1.0 + even * d), _apart_from_0(1.0 + even / c)
        result *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _apart_from_0(1.0 + odd * d), _apart_from_0(1.0 + odd / c)
        step = d * c
        result *= step
        if abs(step - 1.0) < _CONVERGED:
            break
    return result


def _apart_from_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
