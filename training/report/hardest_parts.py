"""The parts that a run finds hardest, as pictures: photographs and masks beside what heads that never saw them say.

They are where wrong labels, bad photographs and a type's real limits show.
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
from training.report.pictures import Picture, jpeg_within, picture_from_map
from training.report.words import TypeResult

PICTURES_SHOWN, PICTURES_PER_SIDE = 24, 4
"""All pictures of a page, and those of a type's misses or false alarms."""
PICTURES_BYTES, SHEET_BYTES = 1_200_000, 800_000
"""All JPEGs together, and the contact sheet: as base64 they grow by a third, and a page stays under 3 MB."""
_NOTHING_LOGIT = -30.0


@dataclass(frozen=True, slots=True)
class HardPart:
    """A part that shows a type and scores low, or that does not and scores high; `place` is its telling photograph."""

    type_name: str
    is_false_alarm: bool
    place: int
    caption: str


def hard_parts(findings: Findings, results: Sequence[TypeResult]) -> list[HardPart]:
    """Each type's hardest parts of both sides, in fair shares of what a page holds, types told worst before others."""
    found: list[tuple[int, float, HardPart]] = []
    for result in results:
        if result.threshold is None:
            continue
        worst = result.accuracy.auc if result.accuracy else 0.0
        lowest = sorted(result.scores.own, key=lambda part: part.logit)
        highest = sorted(result.scores.others, key=lambda part: -part.logit)
        for parts, is_false_alarm in ((lowest, False), (highest, True)):
            for rank, part in enumerate(parts[:PICTURES_PER_SIDE]):
                found.append((rank, worst, _hard_part(findings, result, part, is_false_alarm)))
    return [hard for *_, hard in sorted(found, key=lambda entry: entry[:2])[:PICTURES_SHOWN]]


def pictures_of_parts(
    findings: Findings, hard: Sequence[HardPart], geometry: Geometry, console: Console
) -> list[Picture]:
    """The pictures of the parts, each with the map of its type.

    Raises:
        ProcunitError: a photograph or a mask is gone.
    """
    max_bytes = PICTURES_BYTES // max(1, len(hard))
    unseen_map = lru_cache(maxsize=PICTURES_SHOWN)(findings.unseen_map)
    return [
        _picture(findings, part, unseen_map, geometry, max_bytes)
        for part in track(hard, "Drawing the hardest parts", console=console)
    ]


def sheet_jpeg(png: bytes) -> bytes:
    """The contact sheet as it goes into a page."""
    sheet_bgr_u8 = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return jpeg_within(np.asarray(sheet_bgr_u8, np.uint8), SHEET_BYTES)


def _hard_part(findings: Findings, result: TypeResult, part: Part, is_false_alarm: bool) -> HardPart:
    telling = int(np.argmax(part.logits) if is_false_alarm else np.argmin(part.logits))
    photo = findings.photos[part.places[telling]]
    flagged = result.threshold is not None and part.logit >= result.threshold
    outcome = ("false alarm" if flagged else "passed") if is_false_alarm else ("caught" if flagged else "missed")
    several = f", mean of its photographs {_percent(part.logit)}" if len(part.logits) > 1 else ""
    caption = f"{outcome.capitalize()} at {_percent(part.logits[telling])}{several}. Part {part.part_id}, {photo.file}"
    return HardPart(result.name, is_false_alarm, part.places[telling], caption)


def _picture(
    findings: Findings,
    hard: HardPart,
    unseen_map: Callable[[int], NDArray[np.float32]],
    geometry: Geometry,
    max_bytes: int,
) -> Picture:
    photo, column = findings.photos[hard.place], findings.types.index(hard.type_name)
    frame_u8 = frame_u8_from_pixels(read_image(photo.path), geometry.channels)
    height_px, width_px = frame_u8.shape[:2]
    defect_map = np.nan_to_num(unseen_map(hard.place)[:, column], nan=_NOTHING_LOGIT)
    scores = Scores((0.0,), 0.0, defect_map[:, np.newaxis], np.zeros_like(defect_map))
    relevance_u8 = relevance_from_scores(scores, height_px, width_px, geometry)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, height_px, width_px)
    return picture_from_map(frame_u8, relevance_u8, hard.caption, max_bytes, mask_u8)


def _percent(logit: float) -> str:
    return f"{sigmoid(logit):.0%}"
