"""`procunit calibrate`: scores of held-out good parts through the on-device path, and the limits they support.

The memory bank contains the held-out good parts, so each is scored with the bank made without its fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.held_out import PatchExtractor, held_out_bytes
from calibration.limits import budget_from_counts, limits_from_good_parts
from calibration.scoring import PhotoScorer, ScoredPhoto, with_progress
from edge.anomaly import center_and_spread
from edge.bundle.manifest import GOOD, PATCHES_GRAPH, Budget, ImagingBaseline, ScoreLimit
from edge.bundle.reader import bank_from_file
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.imaging import imaging_from_pixels
from edge.policy import logit, sigmoid
from training.data.run_files import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    HELD_OUT_FILE,
    TRAIN_FILE,
    ExportRecord,
    RunPhoto,
    TrainRecord,
    fold_banks_of_run,
    graphs_of_run,
    read_record,
    write_record,
)

_NO_FOLD = -1
UNCALIBRATED = ScoreLimit(threshold=0.5, center=0.0, spread=1.0)
"""A type's limit without good parts: the sigmoid's middle, and no claim about false alarms."""


def calibrate_run(run: Path, asked_rate: float | None = None) -> CalibrationRecord:
    """Score the run's held-out good photographs and its training defects, set the limits, write `calibration.json`.

    The defects set no limit, because the head was trained on them; they are candidates for golden frames.

    Raises:
        ProcunitError: a stage or a photograph is missing, or there is neither a type nor a held-out good part.
    """
    trained, exported = read_record(run, TRAIN_FILE, TrainRecord), read_record(run, EXPORT_FILE, ExportRecord)
    photos = [photo for photo in trained.photos if is_held_out_good(photo) or is_training_defect(photo)]
    held_out = [photo for photo in photos if is_held_out_good(photo)]
    if not held_out and not trained.types:
        raise ProcunitError(
            "no defect type was trained and no good part was held out: there is no score to calibrate",
            where=str(run / TRAIN_FILE),
            remedy="Add photographs of good parts and train again",
        )
    scored = _scored(run, trained, exported, photos)
    scores = [photo.scores for photo in scored]
    if held_out:
        good = [score for score in scores if score.label == GOOD]
        types, anomaly, budget = limits_from_scores(good, trained.types, asked_rate)
        imaging = imaging_baseline([Path(trained.data) / photo.file for photo in held_out], trained.geometry)
        record = CalibrationRecord(types=types, anomaly=anomaly, budget=budget, imaging=imaging, scores=tuple(scores))
    else:
        types = dict.fromkeys(trained.types, UNCALIBRATED)
        record = CalibrationRecord(types=types, anomaly=None, budget=None, imaging=None, scores=tuple(scores))
    farthest = ([photo.farthest for photo in scored if (photo.scores.label == GOOD) is good] for good in (True, False))
    (run / HELD_OUT_FILE).write_bytes(held_out_bytes(*farthest))
    write_record(run, CALIBRATION_FILE, record)
    return record


def is_held_out_good(photo: RunPhoto) -> bool:
    """Whether a photograph is good and the head was not trained on it; export also makes a bank without its part."""
    return photo.role == "calibrate" and photo.label == GOOD


def is_training_defect(photo: RunPhoto) -> bool:
    """Whether a photograph shows a defect and the head was trained on it."""
    return photo.role == "train" and photo.label != GOOD


def limits_from_scores(
    good: Sequence[PhotoScores], types: tuple[str, ...], asked_rate: float | None
) -> tuple[dict[str, ScoreLimit], ScoreLimit, Budget]:
    """Limits of the types and the anomaly score from scores of good photographs, and their false-alarm budget."""
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


def _scored(run: Path, trained: TrainRecord, exported: ExportRecord, photos: Sequence[RunPhoto]) -> list[ScoredPhoto]:
    """Scores and farthest patches in the order of the photographs."""
    banks = fold_banks_of_run(run)
    engine = OrtEngine(graphs_of_run(run, exported), bank_from_file(run / BANK_FILE))
    scorer = PhotoScorer(
        Path(trained.data), trained.geometry, engine, PatchExtractor(run / PATCHES_GRAPH, trained.geometry)
    )
    fold_of = {photo.sha256: exported.fold_of.get(photo.part_id, _NO_FOLD) for photo in photos if photo.label == GOOD}
    by_fold = sorted(photos, key=lambda photo: fold_of.get(photo.sha256, _NO_FOLD))
    scored, in_force = {}, _NO_FOLD
    try:
        for photo in with_progress(by_fold, "Scoring photographs"):
            fold = fold_of.get(photo.sha256, _NO_FOLD)
            if fold != in_force:
                engine.swap_bank(banks[fold])
                in_force = fold
            scored[photo.sha256] = scorer.scored(photo)
    finally:
        engine.close()
    return [scored[photo.sha256] for photo in photos]


def _flagged_parts(good: Sequence[PhotoScores], types: tuple[ScoreLimit, ...], anomaly: ScoreLimit) -> int:
    """Parts flagged by the rule of `edge.policy.decide`: a sigmoid saturated at 1 reaches its threshold."""
    thresholds = [limit.threshold for limit in types]
    return len(
        {
            photo.part_id
            for photo in good
            if photo.anomaly_score >= anomaly.threshold
            or any(score >= threshold for score, threshold in zip(photo.type_scores, thresholds, strict=True))
        }
    )
