"""Golden frames: a few of the run's photographs on which every engine must reproduce the reference engine."""

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
from edge.messages import of_main_view
from edge.policy import decide, policy_without_authority

MIN_TOLERANCE_SPREADS, MAX_TOLERANCE_SPREADS = 0.01, 0.1
"""Limits of the tolerance, which the calibration scores set within them."""
MIN_DISTANCE_SPREADS = 2 * MAX_TOLERANCE_SPREADS
"""Least distance of a golden frame's scores from every threshold: no drift within the tolerance flips a verdict."""
MAX_FRAMES = 8
AUDIT_DRAW_NEVER = 1.0
"""Audit draw for `decide` that never selects a part for an audit."""


@dataclass(frozen=True)
class ReferenceModel:
    """The reference engine with the bundle's geometry, defect types in order and anomaly threshold."""

    types: tuple[DefectType, ...]
    anomaly: ScoreLimit | None
    geometry: Geometry
    engine: Engine


def tolerance_from_scores(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> float:
    """How far a score may drift, in its spreads on good parts, so that each score alone flips few enough parts.

    The golden gate predicts the flips of all scores together from their measured drifts.
    """
    excesses = excesses_from_scores(scores, types, anomaly)
    names = score_names(types, anomaly)
    alone = min(excesses.largest_drift(score, MAX_TOLERANCE_SPREADS) for score in range(len(names)))
    return max(alone, MIN_TOLERANCE_SPREADS)


def golden_photos(
    scores: Sequence[PhotoScores], types: tuple[DefectType, ...], anomaly: ScoreLimit | None
) -> list[PhotoScores]:
    """The photographs that are far enough from every threshold: by turns a passing one and one flagged by each type.

    Those nearest to a threshold come first, because they are the most sensitive test. No part appears twice.
    """
    groups: dict[str | None, dict[str, PhotoScores]] = {None: {}, **{t.name: {} for t in types}, "": {}}
    excess_of = {photo.sha256: excess(photo, types, anomaly) for photo in scores}
    for photo in sorted(scores, key=lambda p: (np.abs(excess_of[p.sha256]).min(), p.sha256)):
        if _is_clear(excess_of[photo.sha256]):
            group = groups[_flagged_by(photo, excess_of[photo.sha256], types)]
            group.setdefault(photo.part_id, photo)
    in_turn = zip_longest(*(group.values() for group in groups.values()))
    return list({photo.part_id: photo for turn in in_turn for photo in turn if photo is not None}.values())


def write_golden(
    directory: Path, photos: Iterable[tuple[Path, PhotoScores]], reference: ReferenceModel, tolerance: float
) -> None:
    """Write up to `MAX_FRAMES` photographs as lossless PNG at native resolution, with their reference scores.

    The scores are computed from the written files with the bundle's bank. This bank contains the held-out good parts,
    so a photograph that is now too close to a threshold is left out.

    Raises:
        ProcunitError: no photograph is usable, a score differs from the calibration, or the disk is full.
    """
    (directory / GOLDEN).parent.mkdir()
    frames: list[GoldenFrame] = []
    for path, calibrated in photos:
        file = f"{Path(GOLDEN).parent.name}/frame-{len(frames) + 1}.png"
        if not cv2.imwrite(str(directory / file), read_image(path)):
            raise ProcunitError(
                "the golden frame cannot be written", where=str(directory / file), remedy="Free space on the disk"
            )
        frame = _reference(directory, file, calibrated, reference, tolerance)
        if _is_clear(excess(frame, reference.types, reference.anomaly)):
            frames.append(frame)
        else:
            (directory / file).unlink()
        if len(frames) == MAX_FRAMES:
            break
    if not frames:
        raise ProcunitError(
            "no photograph is far enough from every threshold to serve as a golden frame",
            remedy="Add photographs of good parts and of defects, and train again",
        )
    golden = GoldenSet(tolerance=tolerance, frames=tuple(frames))
    (directory / GOLDEN).write_text(golden.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _reference(
    directory: Path, file: str, calibrated: PhotoScores, reference: ReferenceModel, tolerance: float
) -> GoldenFrame:
    scores, _ = score_pixels(read_image(directory / file), reference.geometry, reference.engine)
    drift = excess(scores, reference.types, reference.anomaly) - excess(calibrated, reference.types, reference.anomaly)
    if reference.anomaly is not None and calibrated.label == GOOD:
        drift[-1] = 0.0  # its anomaly score was calibrated with another bank, one built without this part
    if not np.abs(drift).max() <= tolerance:
        raise ProcunitError(
            "the model's scores differ from those of the calibration",
            remedy="Run `procunit calibrate` again, after `procunit export`",
        )
    decision = decide(
        of_main_view(scores), policy_without_authority(reference.types, reference.anomaly), AUDIT_DRAW_NEVER
    )
    return GoldenFrame(
        file=file,
        type_scores=scores.type_scores,
        anomaly_score=scores.anomaly_score,
        verdict=decision.verdict,
    )


def _is_clear(excesses: NDArray[np.float64]) -> bool:
    return bool(np.abs(excesses).min() > MIN_DISTANCE_SPREADS)


def _flagged_by(photo: PhotoScores, excesses: NDArray[np.float64], types: tuple[DefectType, ...]) -> str | None:
    """None if the photograph passes; its own type if that type's score flags it; else the empty string."""
    if not (excesses >= 0).any():
        return None
    own_type = [t.name for t, own in zip(types, excesses, strict=False) if t.name == photo.label and own >= 0]
    return own_type[0] if own_type else ""
