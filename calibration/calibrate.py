"""`procunit calibrate`: scores of held-out good parts through the on-device path, and the limits they support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.limits import budget_from_counts, center_and_spread, limits_from_good_parts
from calibration.scoring import scores_from_photo, with_progress
from edge.bundle import bank_from_file
from edge.dataset import GOOD, read_image
from edge.engine_ort import OrtEngine
from edge.errors import ProcunitError
from edge.imaging import imaging_from_pixels
from edge.manifest import Budget, ImagingBaseline, ScoreLimit
from edge.policy import logit, sigmoid
from edge.preprocess import Geometry
from edge.runfiles import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    TRAIN_FILE,
    CalibrationRecord,
    ExportRecord,
    PhotoScores,
    RunPhoto,
    TrainRecord,
    graphs_of_run,
    read_record,
    write_record,
)

UNCALIBRATED = ScoreLimit(threshold=0.5, center=0.0, spread=1.0)
"""A type's limit where there are no good parts: the sigmoid's middle, and no claim about false alarms."""


def calibrate_run(run: Path, asked_rate: float | None = None) -> CalibrationRecord:
    """Score the run's held-out good photographs and taught defects, set the limits and write `calibration.json`.

    The taught defects set no limit: they were trained on. They are candidates for golden frames.

    Raises:
        ProcunitError: a stage or a photograph is missing, or there is neither a type nor a held-out good part.
    """
    trained = read_record(run, TRAIN_FILE, TrainRecord)
    graphs = graphs_of_run(run, read_record(run, EXPORT_FILE, ExportRecord))
    photos = [photo for photo in trained.photos if is_held_out_good(photo) or is_taught_defect(photo)]
    held_out = [photo for photo in photos if is_held_out_good(photo)]
    if not held_out and not trained.types:
        raise ProcunitError(
            "no defect type was taught and no good part was held out: there is nothing to judge by",
            where=str(run / TRAIN_FILE),
            remedy="Add photographs of good parts and train again",
        )
    scores = _scores(OrtEngine(graphs, bank_from_file(run / BANK_FILE)), trained, photos)
    if held_out:
        good = [score for score in scores if score.label == GOOD]
        types, anomaly, budget = limits_from_scores(good, trained.types, asked_rate)
        imaging = imaging_baseline([Path(trained.data) / photo.file for photo in held_out], trained.geometry)
        record = CalibrationRecord(types=types, anomaly=anomaly, budget=budget, imaging=imaging, scores=tuple(scores))
    else:
        types = dict.fromkeys(trained.types, UNCALIBRATED)
        record = CalibrationRecord(types=types, anomaly=None, budget=None, imaging=None, scores=tuple(scores))
    write_record(run, CALIBRATION_FILE, record)
    return record


def is_held_out_good(photo: RunPhoto) -> bool:
    """A good photograph that neither the head nor the bank was made from."""
    return photo.role == "calibrate" and photo.label == GOOD


def is_taught_defect(photo: RunPhoto) -> bool:
    """A defect photograph that the head was trained on."""
    return photo.role == "train" and photo.label != GOOD


def limits_from_scores(
    good: Sequence[PhotoScores], types: tuple[str, ...], asked_rate: float | None
) -> tuple[dict[str, ScoreLimit], ScoreLimit, Budget]:
    """Limits of the types and the anomaly score, and the budget they keep, from scores of good photographs."""
    limits = limits_from_good_parts(part_scores(good), asked_rate)
    values = zip(limits.thresholds.tolist(), limits.center.tolist(), limits.spread.tolist(), strict=True)
    *heads, anomaly = [ScoreLimit(threshold=t, center=c, spread=s) for t, c, s in values]
    named = {
        name: limit.model_copy(update={"threshold": sigmoid(limit.threshold)})
        for name, limit in zip(types, heads, strict=True)
    }
    flagged = max(limits.budget.flagged_parts, _flagged_parts(good, tuple(named.values()), anomaly))
    return named, anomaly, budget_from_counts(flagged, limits.budget.good_parts)


def part_scores(photos: Sequence[PhotoScores]) -> NDArray[np.float64]:
    """Each part's highest logits and anomaly score over its photographs: float64 [parts, T + 1]."""
    parts: dict[str, list[list[float]]] = {}
    for photo in photos:
        row = [*(logit(score) for score in photo.type_scores), photo.anomaly_score]
        parts.setdefault(photo.part_id, []).append(row)
    return np.array([np.max(rows, axis=0) for rows in parts.values()], np.float64)


def imaging_baseline(paths: Sequence[Path], geometry: Geometry) -> ImagingBaseline:
    """Medians and robust spreads of brightness and sharpness over at least one photograph."""
    looks = [imaging_from_pixels(read_image(path), geometry) for path in paths]
    center, spread = center_and_spread(np.array([[look.brightness, look.sharpness] for look in looks]))
    return ImagingBaseline(
        brightness=float(center[0]),
        brightness_spread=float(spread[0]),
        sharpness=float(center[1]),
        sharpness_spread=float(spread[1]),
    )


def _scores(engine: OrtEngine, trained: TrainRecord, photos: Sequence[RunPhoto]) -> list[PhotoScores]:
    try:
        return [
            scores_from_photo(Path(trained.data) / photo.file, photo, trained.geometry, engine)
            for photo in with_progress(photos, "Scoring photographs")
        ]
    finally:
        engine.close()


def _flagged_parts(good: Sequence[PhotoScores], types: tuple[ScoreLimit, ...], anomaly: ScoreLimit) -> int:
    """Parts flagged by the rule of `edge.policy.decide`: a sigmoid that has run into 1 is at its threshold again."""
    thresholds = [limit.threshold for limit in types]
    return len(
        {
            photo.part_id
            for photo in good
            if photo.anomaly_score >= anomaly.threshold
            or any(score >= threshold for score, threshold in zip(photo.type_scores, thresholds, strict=True))
        }
    )
