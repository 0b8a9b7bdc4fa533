"""A type's scores by part: the ROC curve, the detected parts at an operating point, and inconsistent parts.

A part's score is the mean of its photographs' logits; photographs without a score are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from edge.binomial import lower_bound, upper_bound
from edge.bundle.manifest import GOOD
from training.findings import Findings

FALSE_ALARM_RATES = (0.05, 0.01)
"""The false-positive rates of the report's operating points, the default one first."""
_ONE_SIDED_CONFIDENCE = 0.975


@dataclass(frozen=True, slots=True)
class Part:
    """One label's photographs of one part: their indices in the findings, and their logits by one type's head."""

    part_id: str
    indices: tuple[int, ...]
    logits: tuple[float, ...]

    @property
    def logit(self) -> float:
        """The part's score."""
        return float(np.mean(self.logits))

    def contradicts_itself(self, threshold: float) -> bool:
        """Whether some of the photographs are flagged and others are not."""
        return min(self.logits) < threshold <= max(self.logits)


@dataclass(frozen=True)
class TypeScores:
    """All scored parts by label, as scored by one type's head; `not_scored` counts parts of the type without a score.

    The type is compared with `others`: good parts, or with `against_other_types` those of the other types, because
    there is no good photograph.
    """

    name: str
    parts: Mapping[str, tuple[Part, ...]]
    not_scored: int
    against_other_types: bool

    @property
    def own(self) -> tuple[Part, ...]:
        """The parts with this type."""
        return self.parts.get(self.name, ())

    @property
    def others(self) -> tuple[Part, ...]:
        """The parts that the type is compared with."""
        if not self.against_other_types:
            return self.parts.get(GOOD, ())
        return tuple(part for label, parts in self.parts.items() if label != self.name for part in parts)

    def flagged(self, label: str, threshold: float) -> int:
        """How many of a label's parts reach a threshold."""
        return sum(part.logit >= threshold for part in self.parts.get(label, ()))


@dataclass(frozen=True, slots=True)
class Roc:
    """The shares of the other parts that are flagged and of the type's parts that are caught, at each threshold."""

    flagged: NDArray[np.float64]
    caught: NDArray[np.float64]
    thresholds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The lowest threshold (a logit) that flags at most `rate` of the others, and the numbers of parts that reach it.

    `interval` is the 95 % Clopper-Pearson confidence interval of the share of the type's parts that are caught.
    """

    rate: float
    threshold: float
    caught: int
    own: int
    flagged: int
    others: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the share of the type's parts that are caught."""
        return (
            lower_bound(self.caught, self.own, _ONE_SIDED_CONFIDENCE),
            upper_bound(self.caught, self.own, _ONE_SIDED_CONFIDENCE),
        )

    @property
    def is_measured(self) -> bool:
        """Whether there are enough other parts that a single one is at most the rate."""
        return self.others * self.rate >= 1


def scores_of_type(findings: Findings, name: str) -> TypeScores:
    """The scored parts of every label, in the order of their first photographs."""
    column = findings.logits[:, findings.types.index(name)]
    indices_of: dict[tuple[str, str], list[int]] = {}
    for index, photo in enumerate(findings.photos):
        indices_of.setdefault((photo.label, photo.part_id), []).append(index)
    parts: dict[str, list[Part]] = {}
    not_scored = 0
    for (label, part_id), indices in indices_of.items():
        scored = tuple(index for index in indices if np.isfinite(column[index]))
        if scored:
            parts.setdefault(label, []).append(Part(part_id, scored, tuple(column[list(scored)].tolist())))
        else:
            not_scored += label == name
    return TypeScores(
        name=name,
        parts={label: tuple(of_label) for label, of_label in parts.items()},
        not_scored=not_scored,
        against_other_types=all(photo.label != GOOD for photo in findings.photos),
    )


def roc_of_type(scores: TypeScores) -> Roc | None:
    """The ROC curve with one step per part; None without parts on one of the sides."""
    own, others = scores.own, scores.others
    if not own or not others:
        return None
    logits = [part.logit for part in (*own, *others)]
    target = [True] * len(own) + [False] * len(others)
    return Roc(*roc_curve(target, logits, drop_intermediate=False))


def operating_point(scores: TypeScores, roc: Roc, rate: float) -> OperatingPoint:
    """The operating point with the most parts caught within a false-positive rate."""
    at = int(np.flatnonzero(roc.flagged <= rate)[-1])
    own, others = len(scores.own), len(scores.others)
    return OperatingPoint(
        rate=rate,
        threshold=float(roc.thresholds[at]),
        caught=round(float(roc.caught[at]) * own),
        own=own,
        flagged=round(float(roc.flagged[at]) * others),
        others=others,
    )
