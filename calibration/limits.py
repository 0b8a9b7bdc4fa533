"""Joint thresholds of all scores from held-out good parts, with a confidence that a simulation verifies.

Each score is standardised by the good parts' median and spread; a part's margin is its largest standardised score over
all scores and photographs (`edge.policy.alarm_margin`). One threshold on the margin is one false-alarm budget for all
scores.

A part's margin is computed with the centre and spread of the *other* parts (leave-one-out): with its own scores
included the margin would be too small, and the threshold would flag more than it claims. The threshold is above all but
k of the n margins, so the share of good parts beyond it has the Clopper-Pearson upper bound of k in n, for any
distribution of the scores (Wilks, Ann. Math. Stat. 12, 1941).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.anomaly import center_and_spread
from edge.binomial import trials_needed, upper_bound
from edge.bundle.manifest import Budget

CONFIDENCE = 0.95
_JUST_ABOVE_SPREADS = 1e-3


@dataclass(frozen=True, slots=True)
class JointLimits:
    """The good parts' centre and spread in each of S scores (float64 [S]); `margin`, in spreads, is the threshold."""

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    margin: float
    budget: Budget

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """float64 [S], in the space of the scores."""
        return self.center + self.margin * self.spread


def limits_from_good_parts(part_scores: NDArray[np.float64], asked_rate: float | None = None) -> JointLimits:
    """Limits from float64 [parts, S]: the scores of at least one good part, each the highest over its photographs.

    Without `asked_rate`, or if the parts do not support it, no part is flagged, which is the smallest budget.
    """
    margins = np.sort(leave_one_out_margins(part_scores))[::-1]
    flagged = 0 if asked_rate is None else most_flagged(len(margins), asked_rate)
    center, spread = center_and_spread(part_scores)
    return JointLimits(
        center, spread, float(margins[flagged]) + _JUST_ABOVE_SPREADS, budget_from_counts(flagged, len(margins))
    )


def leave_one_out_margins(part_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each part's largest standardised score, by the centre and spread of the other parts: float64 [parts]."""
    if len(part_scores) == 1:
        return np.zeros(1)
    margins = np.empty(len(part_scores))
    for index, scores in enumerate(part_scores):
        center, spread = center_and_spread(np.delete(part_scores, index, axis=0))
        margins[index] = np.max((scores - center) / spread)
    return margins


def budget_from_counts(flagged_parts: int, good_parts: int) -> Budget:
    """The false-alarm rate that `flagged_parts` of `good_parts` support with `CONFIDENCE`."""
    return Budget(
        false_alarm_rate=upper_bound(flagged_parts, good_parts, CONFIDENCE),
        confidence=CONFIDENCE,
        good_parts=good_parts,
        flagged_parts=flagged_parts,
    )


def most_flagged(good_parts: int, asked_rate: float) -> int:
    """The most parts that may be flagged within `asked_rate`, with confidence; 0 if even that is not supported."""
    flagged = 0
    while flagged + 1 < good_parts and upper_bound(flagged + 1, good_parts, CONFIDENCE) <= asked_rate:
        flagged += 1
    return flagged


def parts_needed(asked_rate: float) -> int:
    """Held-out good parts that support `asked_rate` if none of them is flagged."""
    return trials_needed(asked_rate, CONFIDENCE)
