"""Golden frames: a handful of the run's photographs that every engine must judge as the reference engine did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import GOLDEN, GOOD, DefectType, GoldenFrame, GoldenSet, ScoreLimit
from edge.bundle.records import PhotoScores
from edge.engine.flip_rate import excess, excesses_from_scores, score_names
from edge.engine.protocol import Engine
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.policy import decide, policy_without_authority

MIN_TOLERANCE_SPREADS, MAX_TOLERANCE_SPREADS = 0.01, 0.1
"""Bounds of the tolerance, which the calibration scores determine: how far a score may drift from the reference."""
MIN_DISTANCE_SPREADS = 2 * MAX_TOLERANCE_SPREADS
"""The least distance of a golden frame's scores from every threshold: no drift within the tolerance flips a verdict."""
MAX_FRAMES = 8
_NEVER_AUDIT = 1.0


@dataclass(frozen=True)
class Judge:
    """What a bundle judges by: its types in order, its anomaly limit, its geometry and the reference engine."""

    types: tuple[DefectType, ...]
    anomaly: ScoreLimit | None
    geometry: Geometry
    engine: Engine


def tolerance_from_scores(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> float:
    """How far a score may drift, in its spreads on good parts: as far as any of them alone flips few enough parts.

    What all of them together flip is the golden gate's to predict, from how far each one really drifts.
    """
    excesses = excesses_from_scores(scores, types, anomaly)
    names = score_names(types, anomaly)
    alone = min(excesses.largest_drift(score, MAX_TOLERANCE_SPREADS) for score in range(len(names)))
    return max(alone, MIN_TOLERANCE_SPREADS)


def golden_photos(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> list[PhotoScores]:
    """The photographs clear of every threshold, in turn a passing one and one flagged by each type.

    Those nearest to a threshold come first, as they tell most, and no part comes twice.
    """
    groups: dict[str | None, dict[str, PhotoScores]] = {None: {}, **{t.name: {} for t in types}, "": {}}
    excess_of = {photo.sha256: excess(photo, types, anomaly) for photo in scores}
    for photo in sorted(scores, key=lambda p: (np.abs(excess_of[p.sha256]).min(), p.sha256)):
        if _is_clear(excess_of[photo.sha256]):
            group = groups[_flagged_by(photo, excess_of[photo.sha256], types)]
            group.setdefault(photo.part_id, photo)
    in_turn = zip_longest(*(group.values() for group in groups.values()))
    return list({photo.part_id: photo for turn in in_turn for photo in turn if photo is not None}.values())


def write_golden(directory: Path, photos: Iterable[tuple[Path, PhotoScores]], judge: Judge, tolerance: float) -> None:
    """Write up to `MAX_FRAMES` photographs as lossless PNG at native resolution and their references.

    References are taken from those very files with the bundle's bank, which has seen the held-out good parts: one that
    is no longer clear of every threshold is left out.

    Raises:
        ProcunitError: no photograph is clear, a score is not the one it was calibrated with, or the disk is full.
    """
    (directory / GOLDEN).parent.mkdir()
    frames: list[GoldenFrame] = []
    for path, calibrated in photos:
        file = f"{Path(GOLDEN).parent.name}/frame-{len(frames) + 1}.png"
        if not cv2.imwrite(str(directory / file), read_image(path)):
            raise ProcunitError("cannot be written", where=str(directory / file), remedy="Free space on the disk")
        frame = _reference(directory, file, calibrated, judge, tolerance)
        if _is_clear(excess(frame, judge.types, judge.anomaly)):
            frames.append(frame)
        else:
            (directory / file).unlink()
        if len(frames) == MAX_FRAMES:
            break
    if not frames:
        raise ProcunitError(
            "no photograph lies clear of every threshold, so none can serve as a golden frame",
            remedy="Add photographs of good parts and of defects, and train again",
        )
    golden = GoldenSet(tolerance=tolerance, frames=tuple(frames))
    (directory / GOLDEN).write_text(golden.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _reference(directory: Path, file: str, calibrated: PhotoScores, judge: Judge, tolerance: float) -> GoldenFrame:
    scores, _ = score_pixels(read_image(directory / file), judge.geometry, judge.engine)
    drift = excess(scores, judge.types, judge.anomaly) - excess(calibrated, judge.types, judge.anomaly)
    if judge.anomaly is not None and calibrated.label == GOOD:
        drift[-1] = 0.0  # it was calibrated with a bank made without its part, to which it is nearer or farther
    if not np.abs(drift).max() <= tolerance:
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


def _is_clear(excesses: NDArray[np.float64]) -> bool:
    return bool(np.abs(excesses).min() > MIN_DISTANCE_SPREADS)


def _flagged_by(photo: PhotoScores, excesses: NDArray[np.float64], types: tuple[DefectType, ...]) -> str | None:
    """None for a passing photograph, its type if that type's own score flags it, else the empty string."""
    if not (excesses >= 0).any():
        return None
    own_type = [t.name for t, own in zip(types, excesses, strict=False) if t.name == photo.label and own >= 0]
    return own_type[0] if own_type else ""
