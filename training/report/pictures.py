"""Photographs beside their heat maps as small JPEGs within a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames.heatmap import overlay
from edge.frames.image import jpeg_within

PICTURE_PX = 320
"""The longer side of a photograph in a page; its heat map has the same size."""
_GAP_PX = 8
_JPEG_QUALITY = 80
_MIN_SIDE_PX = 32
_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX, _MIDDLE_GREY_U8 = 16, 256, 128
_OUTLINE_BGR = (0.0, 190.0, 255.0)
_OUTLINE_DISTANCE_PX = 3
"""The outline's distance from the mask, so that it does not hide a small defect."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph with its heat map to the right as one JPEG, and the caption."""

    jpeg: bytes
    caption: str


def picture_from_map(
    frame_u8: NDArray[np.uint8],
    relevance_u8: NDArray[np.uint8],
    caption: str,
    max_bytes: int,
    mask_u8: NDArray[np.uint8] | None = None,
) -> Picture:
    """A photograph, with the defect outlined if there is a mask of its size, beside its heat map."""
    height_px, width_px = frame_u8.shape[:2]
    scale = min(1.0, PICTURE_PX / max(height_px, width_px))
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    small_u8 = np.asarray(cv2.resize(frame_u8, size, interpolation=cv2.INTER_AREA), np.uint8)
    heat_map_bgr_u8 = overlay(small_u8, relevance_u8)
    small_bgr_u8 = small_u8 if small_u8.ndim == 3 else np.asarray(cv2.cvtColor(small_u8, cv2.COLOR_GRAY2BGR), np.uint8)
    if mask_u8 is not None:
        defect_u8 = np.where(mask_u8 > 127, np.uint8(255), np.uint8(0))
        draw_outline(small_bgr_u8, cv2.resize(defect_u8, size, interpolation=cv2.INTER_AREA) > 0)
    gap_bgr_u8 = np.full((size[1], _GAP_PX, 3), 255, np.uint8)
    return Picture(page_jpeg(np.hstack([small_bgr_u8, gap_bgr_u8, heat_map_bgr_u8]), max_bytes), caption)


def draw_outline(pixels_bgr_u8: NDArray[np.uint8], defect: NDArray[np.bool_]) -> None:
    """Draw a line around the defect's pixels [H, W], at a distance, into a picture of the same size."""
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _OUTLINE_DISTANCE_PX + 1,) * 2)
    near_u8 = cv2.dilate(defect.astype(np.uint8), around)
    contours, _ = cv2.findContours(near_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels_bgr_u8, contours, -1, _OUTLINE_BGR, 1)


def pictures_html(pictures: Sequence[Picture]) -> str:
    """The pictures in rows that wrap to the width of the page; captions are escaped."""
    figures = (
        f'<figure><img alt="Photograph and heat map" src="{data_uri(picture.jpeg, "jpeg")}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def legend_html(lowest: str = "usual", highest: str = "unusual") -> str:
    """The legend of the heat maps' colours: a colour bar with labelled ends, and an explanation."""
    frame_u8 = np.full((_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX), _MIDDLE_GREY_U8, np.uint8)
    ramp_u8 = np.tile(np.linspace(0, 255, _LEGEND_WIDTH_PX).astype(np.uint8), (_LEGEND_HEIGHT_PX, 1))
    png = cv2.imencode(".png", overlay(frame_u8, ramp_u8))[1].tobytes()
    bar = f'<img alt="From dark blue to yellow" src="{data_uri(png, "png")}">'
    return (
        f'<p class="legend">{escape(lowest)} {bar} {escape(highest)}</p>'
        '<p class="note">Each photograph has its heat map to the right: dark blue means no sign of a defect, '
        "yellow marks the strongest sign. The colours show where to look; the score shows how severe it is.</p>"
    )


def data_uri(data: bytes, kind: str) -> str:
    """An image file's bytes as a data URI."""
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def page_jpeg(pixels_bgr_u8: NDArray[np.uint8], max_bytes: int) -> bytes:
    """A picture as a JPEG for a page, halved until it fits or is too small to halve again."""
    return jpeg_within(pixels_bgr_u8, max_bytes, (_JPEG_QUALITY,), _MIN_SIDE_PX)
