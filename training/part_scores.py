"""What a type's scores say by part: the ROC curve, what is caught at a working point, and which parts contradict.

A part's score is the mean of its photographs' logits; a photograph that could not be judged says nothing.
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
"""The shares of good parts that may be flagged at the working points of the report, the usual one first."""
_ONE_SIDED_CONFIDENCE = 0.975


@dataclass(frozen=True, slots=True)
class Part:
    """One label's photographs of one part, as one type's head judged them: their places in the findings, and logits."""

    part_id: str
    places: tuple[int, ...]
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
    """All judged parts by label, as one type's head sees them, and how many parts of the type it could not judge.

    `others` is what the type is told from: the good parts, or the other types' where there is no good photograph.
    """

    name: str
    parts: Mapping[str, tuple[Part, ...]]
    not_judged: int
    stand_in: bool

    @property
    def own(self) -> tuple[Part, ...]:
        """The parts with this type."""
        return self.parts.get(self.name, ())

    @property
    def others(self) -> tuple[Part, ...]:
        """The parts that it is told from."""
        if not self.stand_in:
            return self.parts.get(GOOD, ())
        return tuple(part for label, parts in self.parts.items() if label != self.name for part in parts)

    def flagged(self, label: str, threshold: float) -> int:
        """How many of a label's parts reach a threshold."""
        return sum(part.logit >= threshold for part in self.parts.get(label, ()))


@dataclass(frozen=True, slots=True)
class Roc:
    """The shares of the other parts that are flagged and of the type's that are caught from each threshold on."""

    flagged: NDArray[np.float64]
    caught: NDArray[np.float64]
    thresholds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WorkingPoint:
    """The lowest threshold (a logit) that flags no more than `rate` of the others, and the parts that reach it.

    The 95 % interval is Clopper and Pearson's, of the share of the type's parts that are caught.
    """

    rate: float
    threshold: float
    caught: int
    own: int
    flagged: int
    others: int

    @property
    def interval(self) -> tuple[float, float]:
        """Between what shares of the type's parts may be caught."""
        return (
            lower_bound(self.caught, self.own, _ONE_SIDED_CONFIDENCE),
            upper_bound(self.caught, self.own, _ONE_SIDED_CONFIDENCE),
        )

    @property
    def is_measured(self) -> bool:
        """Whether there are so many other parts that a single one is no more than the rate."""
        return self.others * self.rate >= 1


def scores_of_type(findings: Findings, name: str) -> TypeScores:
    """The judged parts of every label, in the order of their first photographs."""
    column = findings.logits[:, findings.types.index(name)]
    places: dict[tuple[str, str], list[int]] = {}
    for place, photo in enumerate(findings.photos):
        places.setdefault((photo.label, photo.part_id), []).append(place)
    parts: dict[str, list[Part]] = {}
    not_judged = 0
    for (label, part_id), all_places in places.items():
        judged = tuple(place for place in all_places if np.isfinite(column[place]))
        if judged:
            parts.setdefault(label, []).append(Part(part_id, judged, tuple(column[list(judged)].tolist())))
        else:
            not_judged += label == name
    return TypeScores(
        name=name,
        parts={label: tuple(of_label) for label, of_label in parts.items()},
        not_judged=not_judged,
        stand_in=all(photo.label != GOOD for photo in findings.photos),
    )


def roc_of_type(scores: TypeScores) -> Roc | None:
    """The curve with every part a step; None where a side is missing."""
    own, others = scores.own, scores.others
    if not own or not others:
        return None
    logits = [part.logit for part in (*own, *others)]
    target = [True] * len(own) + [False] * len(others)
    return Roc(*roc_curve(target, logits, drop_intermediate=False))


def working_point(scores: TypeScores, roc: Roc, rate: float) -> WorkingPoint:
    """Where as many parts are caught as the rate of false alarms allows."""
    at = int(np.flatnonzero(roc.flagged <= rate)[-1])
    own, others = len(scores.own), len(scores.others)
    return WorkingPoint(
        rate=rate,
        threshold=float(roc.thresholds[at]),
        caught=round(float(roc.caught[at]) * own),
        own=own,
        flagged=round(float(roc.flagged[at]) * others),
        others=others,
    )
