"""Golden frames: a handful of the run's photographs that every engine must judge as the reference engine did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.dataset import read_image
from edge.engine import Engine
from edge.errors import ProcunitError
from edge.manifest import GOLDEN, DefectType, GoldenFrame, GoldenSet, ScoreLimit
from edge.pipeline import score_pixels
from edge.policy import decide, logit, policy_without_authority
from edge.preprocess import Geometry
from edge.runfiles import PhotoScores

TOLERANCE_SPREADS = 0.1
"""How far a score may drift from the reference: a tenth of its spread on good parts."""
CLEARANCE_SPREADS = 2 * TOLERANCE_SPREADS
"""How far a golden frame's scores lie from every threshold, so that no drift within the tolerance flips a verdict."""
MAX_FRAMES = 8
_NEVER_AUDIT = 1.0


@dataclass(frozen=True)
class Judge:
    """What a bundle judges by: its types in order, its anomaly limit, its geometry and the reference engine."""

    types: tuple[DefectType, ...]
    anomaly: ScoreLimit | None
    geometry: Geometry
    engine: Engine


def golden_photos(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> list[PhotoScores]:
    """Up to `MAX_FRAMES` photographs clear of every threshold, in turn a passing one and one flagged by each type.

    Those nearest to a threshold come first, as they tell most, and no part comes twice.

    Raises:
        ProcunitError: none is clear of the thresholds.
    """
    groups: dict[str | None, dict[str, PhotoScores]] = {None: {}, **{t.name: {} for t in types}, "": {}}
    distances = {photo.sha256: _distances(photo, types, anomaly) for photo in scores}
    for photo in sorted(scores, key=lambda p: (np.abs(distances[p.sha256]).min(), p.sha256)):
        if np.abs(distances[photo.sha256]).min() > CLEARANCE_SPREADS:
            group = groups[_flagged_by(photo, distances[photo.sha256], types)]
            group.setdefault(photo.part_id, photo)
    in_turn = zip_longest(*(group.values() for group in groups.values()))
    by_part = {photo.part_id: photo for turn in in_turn for photo in turn if photo is not None}
    if not by_part:
        raise ProcunitError(
            "no photograph lies clear of every threshold, so none can serve as a golden frame",
            remedy="Add photographs of good parts and of defects, and train again",
        )
    return list(by_part.values())[:MAX_FRAMES]


def write_golden(directory: Path, photos: Sequence[tuple[Path, PhotoScores]], judge: Judge) -> None:
    """Write the photographs as lossless PNG at native resolution and their references, taken from those very files.

    Raises:
        ProcunitError: a photograph's scores are no longer those it was calibrated with, or the disk is full.
    """
    (directory / GOLDEN).parent.mkdir()
    frames = []
    for number, (path, calibrated) in enumerate(photos, start=1):
        file = f"{Path(GOLDEN).parent.name}/frame-{number}.png"
        if not cv2.imwrite(str(directory / file), read_image(path)):
            raise ProcunitError("cannot be written", where=str(directory / file), remedy="Free space on the disk")
        frames.append(_reference(directory, file, calibrated, judge))
    golden = GoldenSet(tolerance=TOLERANCE_SPREADS, frames=tuple(frames))
    (directory / GOLDEN).write_text(golden.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _reference(directory: Path, file: str, calibrated: PhotoScores, judge: Judge) -> GoldenFrame:
    scores, _ = score_pixels(read_image(directory / file), judge.geometry, judge.engine)
    found = calibrated.model_copy(update={"type_scores": scores.type_scores, "anomaly_score": scores.anomaly_score})
    drift = _distances(found, judge.types, judge.anomaly) - _distances(calibrated, judge.types, judge.anomaly)
    if not np.abs(drift).max() <= TOLERANCE_SPREADS:
        raise ProcunitError(
            "the model does not give the scores it was calibrated with",
            remedy="Run `procunit calibrate` again, after `procunit export`",
        )
    decision = decide(scores, policy_without_authority(judge.types, judge.anomaly), _NEVER_AUDIT)
    return GoldenFrame(
        file=file,
        type_scores=scores.type_scores,
        anomaly_score=scores.anomaly_score,
        verdict=decision.verdict,
    )


def _distances(photo: PhotoScores, types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> NDArray[np.float64]:
    """How far each score lies above its threshold, in spreads on good parts: float64 [T], [T + 1] with the anomaly."""
    distances = [
        (logit(score) - logit(t.limit.threshold)) / t.limit.spread
        for score, t in zip(photo.type_scores, types, strict=True)
    ]
    if anomaly is not None:
        distances.append((photo.anomaly_score - anomaly.threshold) / anomaly.spread)
    return np.array(distances)


def _flagged_by(photo: PhotoScores, distances: NDArray[np.float64], types: tuple[DefectType, ...]) -> str | None:
    """None for a passing photograph, its type if that type's own score flags it, else the empty string."""
    if not (distances >= 0).any():
        return None
    own = [t.name for t, distance in zip(types, distances, strict=False) if t.name == photo.label and distance >= 0]
    return own[0] if own else ""
