"""`calibration.json`: the limits and the calibration photographs' scores, as a run directory and a bundle hold them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge.bundle.manifest import MAX_PHOTOS, MAX_TYPES, Budget, ImagingBaseline, Measure, OneLine, ScoreLimit
from edge.record import Record


class PhotoScores(Record):
    """One photograph's scores on the on-device path; type scores are sigmoids in the order of the run's types."""

    sha256: OneLine
    part_id: OneLine
    label: OneLine
    type_scores: Annotated[tuple[Measure, ...], Field(max_length=MAX_TYPES)]
    anomaly_score: Measure


class CalibrationRecord(Record):
    """Limits from held-out good parts, and the scores they come from; `budget` is None without good parts."""

    types: Annotated[dict[OneLine, ScoreLimit], Field(max_length=MAX_TYPES)]
    anomaly: ScoreLimit | None
    budget: Budget | None
    imaging: ImagingBaseline | None
    scores: Annotated[tuple[PhotoScores, ...], Field(max_length=MAX_PHOTOS)]
