"""The calibration scores that a bundle carries."""

from __future__ import annotations

from edge.bundle.manifest import Budget, ImagingBaseline, ScoreLimit
from edge.record import Record


class PhotoScores(Record):
    """One photograph's scores through the on-device path; type scores are sigmoids in the run's order of types."""

    sha256: str
    part_id: str
    label: str
    type_scores: tuple[float, ...]
    anomaly_score: float


class CalibrationRecord(Record):
    """Limits from held-out good parts; `budget` is None where there are no good parts."""

    types: dict[str, ScoreLimit]
    anomaly: ScoreLimit | None
    budget: Budget | None
    imaging: ImagingBaseline | None
    scores: tuple[PhotoScores, ...]
