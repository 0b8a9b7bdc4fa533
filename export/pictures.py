"""What the bank takes to be unusual, and why: photographs beside their heat maps for a page.

A held-out good part is in the final bank, so its picture is made with the bank that was made without it.
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
from export.golden import Judge
from training.data.run_files import BANK_FILE, ExportRecord, TrainRecord, fold_banks_of_run
from training.report.pictures import Picture, picture_from_map

PICTURES_BYTES = 1_400_000
"""All JPEGs of a page together: as base64 they grow by a third, and a page stays under 2 MB."""
GOOD_PARTS_SHOWN, TYPE_PARTS_SHOWN = 6, 2


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures under a heading."""

    title: str
    pictures: tuple[Picture, ...]


def galleries_from_run(
    run: Path, trained: TrainRecord, exported: ExportRecord, calibrated: CalibrationRecord, judge: Judge
) -> list[Gallery]:
    """The held-out good parts that the bank finds most unusual, and of each type the most and the least unusual.

    The judge's engine is left with another bank.

    Raises:
        ProcunitError: a photograph or a bank is gone.
    """
    chosen = photos_to_show(calibrated.scores, trained.types)
    max_bytes = PICTURES_BYTES // max(1, sum(map(len, chosen.values())))
    files = {photo.sha256: Path(trained.data) / photo.file for photo in trained.photos}
    final = bank_from_file(run / BANK_FILE)
    folds = fold_banks_of_run(run)

    def picture(photo: PhotoScores) -> Picture:
        held_out = photo.label == GOOD
        judge.engine.swap_bank(folds[exported.fold_of[photo.part_id]] if held_out else final)
        pixels = read_image(files[photo.sha256])
        scores, _ = score_pixels(pixels, judge.geometry, judge.engine)
        caption = f"Part {photo.part_id}: {_against(scores.anomaly_score, judge.anomaly)}"
        return picture_from_scores(pixels, bank_alone(scores), judge.geometry, caption, max_bytes)

    return [
        Gallery("Good parts, held out" if label == GOOD else label, tuple(picture(photo) for photo in photos))
        for label, photos in chosen.items()
    ]


def photos_to_show(scores: Sequence[PhotoScores], types: Sequence[str]) -> dict[str, list[PhotoScores]]:
    """The photographs with the highest anomaly scores, one a part, and of each type the one with the lowest, too."""
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
    """A photograph and where these scores come from, scaled down until the JPEG fits.

    Raises:
        ProcunitError: the frame is no usable image.
    """
    frame_u8 = frame_u8_from_pixels(pixels, geometry.channels)
    height_px, width_px = frame_u8.shape[:2]
    relevance_u8 = relevance_from_scores(scores, height_px, width_px, geometry)
    return picture_from_map(frame_u8, relevance_u8, caption, max_bytes)


def bank_alone(scores: Scores) -> Scores:
    """The scores without the head's, so that a heat map shows what the bank finds unusual."""
    return replace(scores, type_scores=(), defect_maps=scores.defect_maps[:, :0])


def type_alone(scores: Scores, place: int) -> Scores:
    """The scores of one type alone, so that a heat map shows where the head sees it."""
    return replace(
        scores,
        type_scores=scores.type_scores[place : place + 1],
        defect_maps=scores.defect_maps[:, place : place + 1],
        anomaly_map=np.zeros_like(scores.anomaly_map),
    )


def _against(score: float, limit: ScoreLimit | None) -> str:
    if limit is None:
        return f"anomaly score {score:.3f}, no threshold"
    side = "at or above" if score >= limit.threshold else "below"
    return f"anomaly score {score:.3f}, {side} the threshold of {limit.threshold:.3f}"
