"""Figures of inspected photographs by unit: by part or by image.

A part's score is the mean of its photographs' scores, its verdict their severest one, its margin their largest one. A
part that shows two types counts for both, each with the photographs that show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.evaluation import AnomalyFigures, EscapeRate, Figures, TypeFigures
from calibration.metrics import Values, auc, auc_ci95, escape_rate, size_scores
from edge.bundle.manifest import GOOD
from edge.messages import Verdict
from training.data.dataset import Photo

FALSE_ALARM_RATES = ("0.01", "0.05")
_SEVEREST_FIRST = (Verdict.REJECT, Verdict.REVIEW, Verdict.NOT_INSPECTED, Verdict.PASS)


@dataclass(frozen=True, slots=True)
class Scored:
    """A photograph's scores: sigmoids of the types, the anomaly distance and the policy's alarm margin."""

    photo: Photo
    width_px: int
    height_px: int
    type_scores: tuple[float, ...]
    anomaly_score: float
    margin: float


@dataclass(frozen=True, slots=True)
class InspectedPhoto:
    """A photograph's verdict; `scored` is None if it was not scored, and then it counts only in the verdicts."""

    photo: Photo
    verdict: Verdict
    inspect_ms: float
    scored: Scored | None


UnitOf = Callable[[Photo], str]


def part_of(photo: Photo) -> str:
    """The unit of figures by part."""
    return photo.part_id


def image_of(photo: Photo) -> str:
    """The unit of figures by image."""
    return photo.file


def figures_from_inspected(
    inspected: Sequence[InspectedPhoto], types: tuple[str, ...], *, has_anomaly: bool, unit_of: UnitOf
) -> Figures:
    """All figures of the folder; `types` are the bundle's, and other types in the folder have only an anomaly AUC."""
    scored = [p.scored for p in inspected if p.scored is not None]
    good = [s for s in scored if s.photo.label == GOOD]
    defects = [s for s in scored if s.photo.label != GOOD]
    anomaly = _anomaly_figures(good, defects, unit_of) if has_anomaly else AnomalyFigures(auc=None, auc_ci95=None)
    good_margins = _by_unit(good, unit_of, lambda s: s.margin, max)
    defect_margins = _by_unit(defects, unit_of, lambda s: s.margin, max)
    return Figures(
        anomaly=anomaly,
        types={
            label: _type_figures(label, inspected, types, has_anomaly=has_anomaly, unit_of=unit_of)
            for label in sorted({p.photo.label for p in inspected} - {GOOD})
        },
        verdicts=_verdicts(inspected, unit_of),
        at_false_alarm={
            rate: EscapeRate(escape_rate=escape_rate(good_margins, defect_margins, float(rate)))
            for rate in FALSE_ALARM_RATES
        },
        size_only_auc=_size_only_auc(scored, unit_of),
    )


def _anomaly_figures(good: Sequence[Scored], defects: Sequence[Scored], unit_of: UnitOf) -> AnomalyFigures:
    positive = _by_unit(defects, unit_of, lambda s: s.anomaly_score, _mean)
    negative = _by_unit(good, unit_of, lambda s: s.anomaly_score, _mean)
    return AnomalyFigures(auc=auc(positive, negative), auc_ci95=auc_ci95(positive, negative))


def _type_figures(
    label: str, inspected: Sequence[InspectedPhoto], types: tuple[str, ...], *, has_anomaly: bool, unit_of: UnitOf
) -> TypeFigures:
    shown = [p.photo for p in inspected if p.photo.label == label]
    scored = [p.scored for p in inspected if p.scored is not None]
    own = [s for s in scored if s.photo.label == label]
    good = [s for s in scored if s.photo.label == GOOD]
    empty = np.zeros(0)
    positive = negative = empty
    if label in types:
        index = types.index(label)
        positive = _by_unit(own, unit_of, lambda s: s.type_scores[index], _mean)
        negative = _by_unit(good, unit_of, lambda s: s.type_scores[index], _mean)
    return TypeFigures(
        images=len(shown),
        parts=len({photo.part_id for photo in shown}),
        head_auc=auc(positive, negative),
        head_auc_ci95=auc_ci95(positive, negative),
        anomaly_auc=_anomaly_figures(good, own, unit_of).auc if has_anomaly else None,
    )


def _verdicts(inspected: Sequence[InspectedPhoto], unit_of: UnitOf) -> dict[str, dict[str, int]]:
    units: dict[tuple[str, str], list[Verdict]] = {}
    for p in inspected:
        units.setdefault((p.photo.label, unit_of(p.photo)), []).append(p.verdict)
    counts: dict[str, dict[str, int]] = {}
    for (truth, _), verdicts in units.items():
        severest = min(verdicts, key=_SEVEREST_FIRST.index).value
        of_truth = counts.setdefault(truth, {verdict.value: 0 for verdict in Verdict})
        of_truth[severest] += 1
    return counts


def _size_only_auc(scored: Sequence[Scored], unit_of: UnitOf) -> float | None:
    sizes_px = np.array([[s.width_px, s.height_px] for s in scored], np.float64).reshape(-1, 2)
    defective = np.array([s.photo.label != GOOD for s in scored], np.bool_)
    by_size = size_scores(sizes_px, defective, [s.photo.part_id for s in scored])
    if by_size is None:
        return None
    score_of = {s.photo.file: float(score) for s, score in zip(scored, by_size, strict=True)}
    defects = [s for s in scored if s.photo.label != GOOD]
    good = [s for s in scored if s.photo.label == GOOD]
    return auc(
        _by_unit(defects, unit_of, lambda s: score_of[s.photo.file], _mean),
        _by_unit(good, unit_of, lambda s: score_of[s.photo.file], _mean),
    )


def _by_unit(
    scored: Sequence[Scored],
    unit_of: UnitOf,
    value_of: Callable[[Scored], float],
    reduce: Callable[[Sequence[float]], float],
) -> Values:
    """One number per unit: float64 [units]."""
    units: dict[str, list[float]] = {}
    for s in scored:
        units.setdefault(unit_of(s.photo), []).append(value_of(s))
    return np.array([reduce(values) for values in units.values()], np.float64)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
