"""Exact one-sided binomial bounds (Clopper and Pearson, Biometrika 26, 1934), without scipy, which the device lacks."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log, log1p

_BISECTIONS = 60


def lower_bound(hits: int, trials: int, confidence: float) -> float:
    """The rate below which `hits` or more of `trials` has a probability under 1 - confidence; 0 without trials."""
    if hits == 0:
        return 0.0
    return _root(lambda rate: 1.0 - _cdf(hits - 1, trials, rate) - (1.0 - confidence))


def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """The rate above which `hits` or fewer of `trials` has a probability under 1 - confidence; 1 without trials."""
    if hits == trials:
        return 1.0
    return _root(lambda rate: (1.0 - confidence) - _cdf(hits, trials, rate))


def trials_needed(rate: float, confidence: float) -> int:
    """How many trials without a hit bring `upper_bound` down to `rate`."""
    trials, probability = 0, 1.0
    while probability > 1.0 - confidence:
        probability *= 1.0 - rate
        trials += 1
    return trials


def _cdf(hits: int, trials: int, rate: float) -> float:
    """The probability of `hits` or fewer, rate in (0, 1); in logarithms, as binomial coefficients exceed floats."""
    log_rate, log_rest, log_orders = log(rate), log1p(-rate), lgamma(trials + 1)
    return sum(
        exp(log_orders - lgamma(k + 1) - lgamma(trials - k + 1) + k * log_rate + (trials - k) * log_rest)
        for k in range(hits + 1)
    )


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
