"""Pictures for the bundle's report: photographs beside heat maps of what the memory bank finds unusual.

A held-out good part is in the final bank, so its heat map is computed with the fold bank built without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.bundle.manifest import GOOD, ScoreLimit
from edge.bundle.reader import bank_from_file
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.engine.scores import score_pixels
from edge.frames.heatmap import relevance_from_scores
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import PixelArray, Scores
from edge.preprocess import frame_u8_from_pixels
from export.golden import ReferenceModel
from training.data.run_files import BANK_FILE, ExportRecord, TrainRecord, fold_banks_of_run
from training.report.pictures import Picture, picture_from_map

PICTURES_BYTES = 1_400_000
"""Limit for all JPEGs of a page: base64 adds a third, so the page stays under 2 MB."""
GOOD_PARTS_SHOWN, TYPE_PARTS_SHOWN = 6, 2


@dataclass(frozen=True, slots=True)
class Gallery:
    """A heading and its pictures."""

    title: str
    pictures: tuple[Picture, ...]


def galleries_from_run(
    run: Path, trained: TrainRecord, exported: ExportRecord, calibrated: CalibrationRecord, reference: ReferenceModel
) -> list[Gallery]:
    """The held-out good parts that the bank finds most unusual, and the most and least unusual parts of each type.

    The bank of the reference engine is swapped and not restored.

    Raises:
        ProcunitError: a photograph or a bank is missing.
    """
    chosen = photos_to_show(calibrated.scores, trained.types)
    max_bytes = PICTURES_BYTES // max(1, sum(map(len, chosen.values())))
    files = {photo.sha256: Path(trained.data) / photo.file for photo in trained.photos}
    final = bank_from_file(run / BANK_FILE)
    folds = fold_banks_of_run(run)

    def picture(photo: PhotoScores) -> Picture:
        held_out = photo.label == GOOD
        reference.engine.swap_bank(folds[exported.fold_of[photo.part_id]] if held_out else final)
        pixels = read_image(files[photo.sha256])
        scores, _ = score_pixels(pixels, reference.geometry, reference.engine)
        caption = f"Part {photo.part_id}: {_against(scores.anomaly_score, reference.anomaly)}"
        return picture_from_scores(pixels, bank_alone(scores), reference.geometry, caption, max_bytes)

    return [
        Gallery("Good parts, held out" if label == GOOD else label, tuple(picture(photo) for photo in photos))
        for label, photos in chosen.items()
    ]


def photos_to_show(scores: Sequence[PhotoScores], types: Sequence[str]) -> dict[str, list[PhotoScores]]:
    """The photographs with the highest anomaly scores, one per part, and also the lowest-scoring one of each type."""
    chosen: dict[str, list[PhotoScores]] = {}
    for label in (GOOD, *types):
        descending = sorted((photo for photo in scores if photo.label == label), key=lambda p: -p.anomaly_score)
        parts: dict[str, PhotoScores] = {}
        for photo in descending:
            parts.setdefault(photo.part_id, photo)
        highest = list(parts.values())
        if label == GOOD:
            shown = highest[:GOOD_PARTS_SHOWN]
        else:
            shown = highest[:TYPE_PARTS_SHOWN]
            shown += [photo for photo in descending[-1:] if photo not in shown]
        if shown:
            chosen[label] = shown
    return chosen


def picture_from_scores(
    pixels: PixelArray, scores: Scores, geometry: Geometry, caption: str, max_bytes: int
) -> Picture:
    """A photograph beside the heat map of these scores, scaled down until the JPEG fits into `max_bytes`.

    Raises:
        ProcunitError: the frame is not a usable image.
    """
    frame_u8 = frame_u8_from_pixels(pixels, geometry.channels)
    height_px, width_px = frame_u8.shape[:2]
    relevance_u8 = relevance_from_scores(scores, height_px, width_px, geometry)
    return picture_from_map(frame_u8, relevance_u8, caption, max_bytes)


def bank_alone(scores: Scores) -> Scores:
    """The scores without the head's, so that a heat map shows only what the bank finds unusual."""
    return replace(scores, type_scores=(), defect_maps=scores.defect_maps[:, :0])


def type_alone(scores: Scores, type_index: int) -> Scores:
    """The scores of one defect type, so that a heat map shows only where the head sees it."""
    return replace(
        scores,
        type_scores=scores.type_scores[type_index : type_index + 1],
        defect_maps=scores.defect_maps[:, type_index : type_index + 1],
        anomaly_map=np.zeros_like(scores.anomaly_map),
    )


def _against(score: float, limit: ScoreLimit | None) -> str:
    if limit is None:
        return f"anomaly score {score:.3f}, no threshold"
    side = "at or above" if score >= limit.threshold else "below"
    return f"anomaly score {score:.3f}, {side} the threshold of {limit.threshold:.3f}"
