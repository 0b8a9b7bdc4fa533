"""The hardest parts of a run, as pictures: photographs and masks beside their cross-validated heat maps.

They reveal wrong labels, bad photographs and a type's real limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge.frames.heatmap import relevance_from_scores
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import Scores
from edge.policy import sigmoid
from edge.preprocess import frame_u8_from_pixels
from training.data.dataset import read_mask
from training.findings import Findings
from training.part_scores import Part
from training.report.pictures import Picture, page_jpeg, picture_from_map
from training.report.words import TypeResult

PICTURES_SHOWN, PICTURES_PER_SIDE = 24, 4
"""Pictures per page, and per type for its misses and for its false alarms."""
PICTURES_BYTES, SHEET_BYTES = 1_200_000, 800_000
"""Limits of all JPEGs together and of the contact sheet: base64 adds a third, and a page stays under 3 MB."""
_NOTHING_LOGIT = -30.0


@dataclass(frozen=True, slots=True)
class HardPart:
    """A part of a type that scores low, or another part that scores high; `photo_index` is its extreme photograph."""

    type_name: str
    is_false_alarm: bool
    photo_index: int
    caption: str


def hard_parts(findings: Findings, results: Sequence[TypeResult]) -> list[HardPart]:
    """Each type's lowest-scoring and highest-scoring other parts, shared evenly among types, worst AUC first."""
    found: list[tuple[int, float, HardPart]] = []
    for result in results:
        if result.threshold is None:
            continue
        auc = result.accuracy.auc if result.accuracy else 0.0
        lowest = sorted(result.scores.own, key=lambda part: part.logit)
        highest = sorted(result.scores.others, key=lambda part: -part.logit)
        for parts, is_false_alarm in ((lowest, False), (highest, True)):
            for rank, part in enumerate(parts[:PICTURES_PER_SIDE]):
                found.append((rank, auc, _hard_part(findings, result, part, is_false_alarm)))
    return [hard for *_, hard in sorted(found, key=lambda entry: entry[:2])[:PICTURES_SHOWN]]


def pictures_of_parts(
    findings: Findings, hard: Sequence[HardPart], geometry: Geometry, console: Console
) -> list[Picture]:
    """The pictures of the parts, each with the map of its type.

    Raises:
        ProcunitError: a photograph or a mask is missing.
    """
    max_bytes = PICTURES_BYTES // max(1, len(hard))
    unseen_map = lru_cache(maxsize=PICTURES_SHOWN)(findings.unseen_map)
    return [
        _picture(findings, part, unseen_map, geometry, max_bytes)
        for part in track(hard, "Drawing the hardest parts", console=console)
    ]


def sheet_jpeg(png: bytes) -> bytes:
    """The contact sheet as a JPEG for a page."""
    sheet_bgr_u8 = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return page_jpeg(np.asarray(sheet_bgr_u8, np.uint8), SHEET_BYTES)


def _hard_part(findings: Findings, result: TypeResult, part: Part, is_false_alarm: bool) -> HardPart:
    extreme = int(np.argmax(part.logits) if is_false_alarm else np.argmin(part.logits))
    photo = findings.photos[part.indices[extreme]]
    flagged = result.threshold is not None and part.logit >= result.threshold
    outcome = ("false alarm" if flagged else "passed") if is_false_alarm else ("caught" if flagged else "missed")
    several = f", mean of its photographs {_percent(part.logit)}" if len(part.logits) > 1 else ""
    caption = f"{outcome.capitalize()} at {_percent(part.logits[extreme])}{several}. Part {part.part_id}, {photo.file}"
    return HardPart(result.name, is_false_alarm, part.indices[extreme], caption)


def _picture(
    findings: Findings,
    hard: HardPart,
    unseen_map: Callable[[int], NDArray[np.float32]],
    geometry: Geometry,
    max_bytes: int,
) -> Picture:
    photo, column = findings.photos[hard.photo_index], findings.types.index(hard.type_name)
    frame_u8 = frame_u8_from_pixels(read_image(photo.path), geometry.channels)
    height_px, width_px = frame_u8.shape[:2]
    defect_map = np.nan_to_num(unseen_map(hard.photo_index)[:, column], nan=_NOTHING_LOGIT)
    scores = Scores((0.0,), 0.0, defect_map[:, np.newaxis], np.zeros_like(defect_map))
    relevance_u8 = relevance_from_scores(scores, height_px, width_px, geometry)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, height_px, width_px)
    return picture_from_map(frame_u8, relevance_u8, hard.caption, max_bytes, mask_u8)


def _percent(logit: float) -> str:
    return f"{sigmoid(logit):.0%}"
