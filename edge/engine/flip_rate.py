"""How many parts another engine's drift would judge otherwise, predicted from the calibration scores.

A part's excess is the largest distance of any of its scores above its threshold, in spreads: from zero on it is
flagged. Drift moves each score by as much as the golden frames moved it at worst, all of them up or all of them down,
and a part flips where its excess changes sign.

Parts are not counted as they lie: the thresholds are order statistics of these very parts, so that one of them lies on
its threshold and the least drift would count it. Each part stands for a Gaussian around its excess instead, as wide
as Silverman's rule of thumb says (Density Estimation for Statistics and Data Analysis, 1986, eq. 3.31). Good parts and
defects are estimated apart and weighed as on a line where defects are rare (docs/decisions/0009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import CALIBRATION, GOOD, DefectType, ScoreLimit
from edge.bundle.reader import BundleContent
from edge.bundle.records import PhotoScores
from edge.errors import ProcunitError
from edge.policy import logit

MAX_FLIP_RATE = 1e-3
"""The share of a line's parts that an engine may be predicted to judge otherwise."""
DEFECT_SHARE = 0.05
"""How many of a line's parts are taken to be defects; the calibration photographs hold far more."""
ANOMALY = "anomaly"
_MIN_BANDWIDTH_SPREADS = 0.1
_HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Clearances:
    """How far each score of each part lies above its threshold, in spreads: float64 [parts, S], highest photograph."""

    good: NDArray[np.float64]
    defects: NDArray[np.float64]

    def flip_rate(self, drift: NDArray[np.float64]) -> float:
        """The share of a line's parts that a drift of each score, float64 [S] in spreads, would judge otherwise.

        It is 0 without drift and never less for more; a kind of part that the bundle tells nothing of has no weight.
        """
        groups = ((1 - DEFECT_SHARE, self.good), (DEFECT_SHARE, self.defects))
        known = [(share, _flip_rate(parts, drift)) for share, parts in groups if len(parts)]
        return sum(share * rate for share, rate in known) / sum(share for share, _ in known)

    def largest_drift(self, score: int, most: float) -> float:
        """The largest drift of one score alone that keeps to `MAX_FLIP_RATE`, up to `most` spreads."""
        alone = np.eye(self.good.shape[1])[score]
        if self.flip_rate(most * alone) <= MAX_FLIP_RATE:
            return most
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.flip_rate(middle * alone) <= MAX_FLIP_RATE else (low, middle)
        return low


def clearances_from_bundle(content: BundleContent) -> Clearances | None:
    """Of the parts that the bundle was calibrated with; None where it tells of none.

    Raises:
        ProcunitError: its record is damaged or does not fit its types.
    """
    manifest = content.manifest
    record = content.calibration()
    if record is None:
        return None
    scores = record.scores
    if any(len(photo.type_scores) != len(manifest.types) for photo in scores):
        raise ProcunitError(
            "the calibration scores do not fit the bundle's types",
            where=str(content.path / CALIBRATION),
            remedy="Calibrate and build the bundle again",
        )
    return excesses_from_scores(scores, manifest.types, manifest.anomaly) if scores else None


def excesses_from_scores(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> Clearances:
    """Of every part on at least one photograph; a part that shows a defect on any of them is no good one."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for photo in scores:
        parts.setdefault(photo.part_id, []).append(excess(photo, types, anomaly))
    defective = {photo.part_id for photo in scores if photo.label != GOOD}
    size = len(score_names(types, anomaly))
    good, defects = (
        np.array([np.max(rows, axis=0) for part_id, rows in parts.items() if (part_id in defective) is wanted])
        for wanted in (False, True)
    )
    return Clearances(good.reshape(-1, size), defects.reshape(-1, size))


class Scored(Protocol):
    """What has scores: a frame's, a golden frame's reference or a calibrated photograph's."""

    @property
    def type_scores(self) -> tuple[float, ...]:
        """Sigmoids in the bundle's order of types."""
        ...

    @property
    def anomaly_score(self) -> float:
        """A distance."""
        ...


def score_names(types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> tuple[str, ...]:
    """The scores in the order of `excess`."""
    return (*(t.name for t in types), *((ANOMALY,) if anomaly is not None else ()))


def excess(scored: Scored, types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> NDArray[np.float64]:
    """How far each score lies above its threshold, in spreads on good parts: float64 [T], [T + 1] with the anomaly."""
    distances = [
        (logit(score) - logit(t.limit.threshold)) / t.limit.spread
        for score, t in zip(scored.type_scores, types, strict=True)
    ]
    if anomaly is not None:
        distances.append((scored.anomaly_score - anomaly.threshold) / anomaly.spread)
    return np.array(distances)


def _flip_rate(excesses: NDArray[np.float64], drift: NDArray[np.float64]) -> float:
    """The share of a group's parts [n, S] newly flagged by drift upwards or no longer by drift down, the larger one."""
    now = excesses.max(axis=1)
    bandwidth = _bandwidth(now)
    flagged_low, flagged, flagged_high = (
        float(np.mean([_normal_cdf(distance / bandwidth) for distance in distances]))
        for distances in ((excesses - drift).max(axis=1), now, (excesses + drift).max(axis=1))
    )
    return max(flagged_high - flagged, flagged - flagged_low)


def _bandwidth(distances: NDArray[np.float64]) -> float:
    """Silverman's rule of thumb, by whichever of deviation and quartiles is the narrower."""
    upper, lower = np.percentile(distances, [75, 25])
    width = 0.9 * min(distances.std(), (upper - lower) / 1.34) / len(distances) ** 0.2
    return max(float(width), _MIN_BANDWIDTH_SPREADS)


def _normal_cdf(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))
