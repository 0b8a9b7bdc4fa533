"""`calibration.json`: the limits and the calibration photographs' scores, as a run directory and a bundle hold them."""

from __future__ import annotations

from edge.bundle.manifest import Budget, ImagingBaseline, ScoreLimit
from edge.record import Record


class PhotoScores(Record):
    """One photograph's scores on the on-device path; type scores are sigmoids in the order of the run's types."""

    sha256: str
    part_id: str
    label: str
    type_scores: tuple[float, ...]
    anomaly_score: float


class CalibrationRecord(Record):
    """Limits from held-out good parts, and the scores they come from; `budget` is None without good parts."""

    types: dict[str, ScoreLimit]
    anomaly: ScoreLimit | None
    budget: Budget | None
    imaging: ImagingBaseline | None
    scores: tuple[PhotoScores, ...]
