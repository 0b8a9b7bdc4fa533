"""Photographs beside their heat maps as small JPEGs inside of a page: what the bank takes to be unusual, and why.

A held-out good part is in the final bank, so its picture is made with the bank that was made without it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle import bank_from_file
from edge.dataset import GOOD, read_image
from edge.heatmap import overlay, relevance_from_scores
from edge.manifest import ScoreLimit
from edge.messages import PixelArray, Scores
from edge.pipeline import score_pixels
from edge.preprocess import Geometry, frame_u8_from_pixels
from edge.runfiles import BANK_FILE, CalibrationRecord, ExportRecord, PhotoScores, TrainRecord, fold_banks_of_run
from export.golden import Judge

PICTURE_PX = 320
"""The longer side of a photograph in a page; its heat map is as large."""
PICTURES_BYTES = 1_400_000
"""All JPEGs of a page together: as base64 they grow by a third, and a page stays under 2 MB."""
GOOD_PARTS_SHOWN, TYPE_PARTS_SHOWN = 6, 2
_GAP_PX = 8
_JPEG_QUALITY = 80
_LEAST_PX = 32
_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX, _MIDDLE_GREY_U8 = 16, 256, 128


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph, its heat map to the right of it, as one JPEG, and the line below."""

    jpeg: bytes
    caption: str


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
    scale = min(1.0, PICTURE_PX / max(height_px, width_px))
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    small_u8 = np.asarray(cv2.resize(frame_u8, size, interpolation=cv2.INTER_AREA), np.uint8)
    small_bgr_u8 = small_u8 if small_u8.ndim == 3 else np.asarray(cv2.cvtColor(small_u8, cv2.COLOR_GRAY2BGR), np.uint8)
    gap_bgr_u8 = np.full((size[1], _GAP_PX, 3), 255, np.uint8)
    both_bgr_u8 = np.hstack([small_bgr_u8, gap_bgr_u8, overlay(small_u8, relevance_u8)])
    return Picture(_jpeg_within(both_bgr_u8, max_bytes), caption)


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


def pictures_html(pictures: Sequence[Picture]) -> str:
    """The pictures beside each other as far as the page is wide; captions are escaped."""
    figures = (
        f'<figure><img alt="Photograph and heat map" src="{_data_uri(picture.jpeg, "jpeg")}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def legend_html() -> str:
    """How the colours are read: a bar drawn as the heat maps are, and a sentence."""
    frame_u8 = np.full((_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX), _MIDDLE_GREY_U8, np.uint8)
    ramp_u8 = np.tile(np.linspace(0, 255, _LEGEND_WIDTH_PX).astype(np.uint8), (_LEGEND_HEIGHT_PX, 1))
    png = cv2.imencode(".png", overlay(frame_u8, ramp_u8))[1].tobytes()
    return (
        f'<p class="legend">usual <img alt="From dark blue to yellow" src="{_data_uri(png, "png")}"> unusual</p>'
        '<p class="note">Each photograph has its heat map to the right: dark blue says nothing against the part, '
        "yellow marks the place that says most. The colours tell where to look; how bad it is, the score tells.</p>"
    )


def _against(score: float, limit: ScoreLimit | None) -> str:
    if limit is None:
        return f"anomaly score {score:.3f}, no threshold"
    side = "at or above" if score >= limit.threshold else "below"
    return f"anomaly score {score:.3f}, {side} the threshold of {limit.threshold:.3f}"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def _jpeg_within(pixels_bgr_u8: NDArray[np.uint8], max_bytes: int) -> bytes:
    """At full size, or halved until it fits or hardly shows anything any more."""
    while True:
        jpeg = cv2.imencode(".jpg", pixels_bgr_u8, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        height_px, width_px = pixels_bgr_u8.shape[:2]
        if len(jpeg) <= max_bytes or min(height_px, width_px) < 2 * _LEAST_PX:
            return jpeg
        half = (width_px // 2, height_px // 2)
        pixels_bgr_u8 = np.asarray(cv2.resize(pixels_bgr_u8, half, interpolation=cv2.INTER_AREA), np.uint8)
