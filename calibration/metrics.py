"""Metrics of a labelled folder; a metric is None if the folder does not have enough units for it.

Units are parts or images; scores are arrays of one number per unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 250
_SEED = 0
_MAX_FOLDS = 5

Values = NDArray[np.float64]


def auc(positive: Values, negative: Values) -> float | None:
    """The ROC AUC: the probability that a positive unit scores higher than a negative one, a tie counting half."""
    if not positive.size or not negative.size:
        return None
    return float(_wins(positive, negative).mean())


def auc_ci95(positive: Values, negative: Values) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of `auc`, both sides resampled; None with fewer than two units on a side.

    A resample is a vector of counts per unit, so that all resamples use the same matrix of pairwise wins.
    """
    if min(positive.size, negative.size) < 2:
        return None
    wins = _wins(positive, negative)
    rng = np.random.default_rng(_SEED)
    figures = []
    for _ in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn_positive = _draws(rng, positive.size)
        drawn_negative = _draws(rng, negative.size)
        figures.append(((drawn_positive @ wins) * drawn_negative).sum(axis=1) / wins.size)
    low, high = np.percentile(np.concatenate(figures), [2.5, 97.5])
    return float(low), float(high)


def escape_rate(good_margins: Values, defect_margins: Values, false_alarm_rate: float) -> float | None:
    """The share of defect units that pass if at most `false_alarm_rate` of these good units are flagged.

    Read from the ROC curve, with linear interpolation between two points, which corresponds to a random choice between
    their thresholds.
    """
    if not good_margins.size or not defect_margins.size:
        return None
    truth = np.concatenate([np.zeros(good_margins.size), np.ones(defect_margins.size)])
    margins = np.concatenate([good_margins, defect_margins])
    false_alarms, detections, _ = roc_curve(truth, margins, drop_intermediate=False)
    best = dict(zip(false_alarms.tolist(), detections.tolist(), strict=True))  # the last of equal rates is the highest
    return float(1.0 - np.interp(false_alarm_rate, list(best), list(best.values())))


def agreement(verdicts_by_part: Sequence[Sequence[str]]) -> float | None:
    """The share of parts whose photographs all have the same verdict, among parts with two photographs or more."""
    repeated = [verdicts for verdicts in verdicts_by_part if len(verdicts) >= 2]
    if not repeated:
        return None
    return sum(len(set(verdicts)) == 1 for verdicts in repeated) / len(repeated)


def size_scores(sizes_px: Values, defective: NDArray[np.bool_], parts: Sequence[str]) -> Values | None:
    """Scores that predict a defect from the image's size alone: float64 [images], cross-validated by part.

    `sizes_px` is float64 [images, 2], width and height. A quadratic logistic regression on their logarithms, so that it
    includes the aspect ratio: a confounder that a real score must beat. None with fewer than two parts of either kind.
    """
    folds = min(_MAX_FOLDS, *(len({p for p, d in zip(parts, defective, strict=True) if d == kind}) for kind in (0, 1)))
    if folds < 2:
        return None
    scores = np.zeros(len(sizes_px))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED)
    features = np.log(sizes_px)
    for train, left_out in splitter.split(features, defective, parts):
        if len(np.unique(defective[train])) < 2:
            return None
        model = make_pipeline(
            StandardScaler(), PolynomialFeatures(2, include_bias=False), LogisticRegression(class_weight="balanced")
        )
        model.fit(features[train], defective[train])
        scores[left_out] = model.decision_function(features[left_out])
    return scores


def _wins(positive: Values, negative: Values) -> Values:
    """float64 [positives, negatives]: 1 where the positive scores higher, 0.5 at a tie."""
    difference = np.sign(positive[:, None] - negative[None, :])
    return (difference + 1.0) / 2.0


def _draws(rng: np.random.Generator, units: int) -> Values:
    """How often each unit is in each resample: float64 [resamples, units]."""
    return rng.multinomial(units, np.full(units, 1.0 / units), _RESAMPLES_AT_ONCE).astype(np.float64)
