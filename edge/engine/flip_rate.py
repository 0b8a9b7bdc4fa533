"""The share of parts whose verdict would flip because an engine's scores drift, predicted from the calibration scores.

Excess: how far a score is above its threshold, in spreads; 0 or more means flagged. The excess of a part is the largest
of its scores'. Drift moves each score by its largest deviation on the golden frames, all scores up or all down; a part
flips if the sign of its excess changes.

The parts are not simply counted: the thresholds are order statistics of the same parts, so one part is exactly on its
threshold, and the smallest drift would count it. Instead, each part is replaced by a Gaussian around its excess, with
the width of Silverman's rule of thumb (Density Estimation for Statistics and Data Analysis, 1986, eq. 3.31). Good parts
and defects are estimated separately and weighted as on a line where defects are rare (docs/decisions/0009).
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
"""The largest predicted share of flipped parts with which an engine passes."""
DEFECT_SHARE = 0.05
"""The assumed share of defects on a line; among the calibration photographs it is far larger."""
ANOMALY = "anomaly"
_MIN_BANDWIDTH_SPREADS = 0.1
_HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Excesses:
    """The excess of each score of each part, float64 [parts, S]: the largest over the part's photographs."""

    good: NDArray[np.float64]
    defects: NDArray[np.float64]

    def flip_rate(self, drift: NDArray[np.float64]) -> float:
        """The predicted share of parts that flip if each score drifts by `drift`, float64 [S] in spreads.

        It is 0 without drift and never falls with more drift. If there are no good parts, or no defects, only the other
        group counts.
        """
        groups = ((1 - DEFECT_SHARE, self.good), (DEFECT_SHARE, self.defects))
        known = [(share, _flip_rate(parts, drift)) for share, parts in groups if len(parts)]
        return sum(share * rate for share, rate in known) / sum(share for share, _ in known)

    def largest_drift(self, score: int, most: float) -> float:
        """The largest drift of this score alone that keeps within `MAX_FLIP_RATE`, at most `most` spreads."""
        alone = np.eye(self.good.shape[1])[score]
        if self.flip_rate(most * alone) <= MAX_FLIP_RATE:
            return most
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.flip_rate(middle * alone) <= MAX_FLIP_RATE else (low, middle)
        return low


def excesses_from_bundle(content: BundleContent) -> Excesses | None:
    """The excesses of the parts that the bundle was calibrated with; None if it has no calibration scores.

    Raises:
        ProcunitError: the calibration record is damaged or does not fit the bundle's types.
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
) -> Excesses:
    """The excesses of all parts; a part with a defect on any of its photographs is a defect."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for photo in scores:
        parts.setdefault(photo.part_id, []).append(excess(photo, types, anomaly))
    defective = {photo.part_id for photo in scores if photo.label != GOOD}
    size = len(score_names(types, anomaly))
    good, defects = (
        np.array([np.max(rows, axis=0) for part_id, rows in parts.items() if (part_id in defective) is wanted])
        for wanted in (False, True)
    )
    return Excesses(good.reshape(-1, size), defects.reshape(-1, size))


class Scored(Protocol):
    """An object with scores: of a frame, of a golden frame's reference, or of a calibration photograph."""

    @property
    def type_scores(self) -> tuple[float, ...]:
        """Sigmoids, in the bundle's order of types."""
        ...

    @property
    def anomaly_score(self) -> float:
        """A distance from the memory bank."""
        ...


def score_names(types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> tuple[str, ...]:
    """The names of the scores, in the order of `excess`."""
    return (*(t.name for t in types), *((ANOMALY,) if anomaly is not None else ()))


def excess(scored: Scored, types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> NDArray[np.float64]:
    """How far each score is above its threshold, in spreads on good parts: float64 [T], [T + 1] with the anomaly."""
    distances = [
        (logit(score) - logit(t.limit.threshold)) / t.limit.spread
        for score, t in zip(scored.type_scores, types, strict=True)
    ]
    if anomaly is not None:
        distances.append((scored.anomaly_score - anomaly.threshold) / anomaly.spread)
    return np.array(distances)


def _flip_rate(excesses: NDArray[np.float64], drift: NDArray[np.float64]) -> float:
    """The share of the parts [n, S] that upward drift newly flags or downward drift no longer flags; the larger one."""
    now = excesses.max(axis=1)
    bandwidth = _bandwidth(now)
    flagged_low, flagged, flagged_high = (
        float(np.mean([_normal_cdf(distance / bandwidth) for distance in distances]))
        for distances in ((excesses - drift).max(axis=1), now, (excesses + drift).max(axis=1))
    )
    return max(flagged_high - flagged, flagged - flagged_low)


def _bandwidth(distances: NDArray[np.float64]) -> float:
    """Silverman's rule of thumb, from the smaller of standard deviation and interquartile range / 1.34."""
    upper, lower = np.percentile(distances, [75, 25])
    width = 0.9 * min(distances.std(), (upper - lower) / 1.34) / len(distances) ** 0.2
    return max(float(width), _MIN_BANDWIDTH_SPREADS)


def _normal_cdf(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))
