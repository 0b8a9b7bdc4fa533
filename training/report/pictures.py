"""Photographs beside their heat maps as small JPEGs inside of a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames.heatmap import overlay

PICTURE_PX = 320
"""The longer side of a photograph in a page; its heat map is as large."""
_GAP_PX = 8
_JPEG_QUALITY = 80
_LEAST_PX = 32
_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX, _MIDDLE_GREY_U8 = 16, 256, 128
_OUTLINE_BGR = (0.0, 190.0, 255.0)
_OUTLINE_DISTANCE_PX = 3
"""An outline stays this far off its mask, so that a small defect can still be seen."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph, its heat map to the right of it, as one JPEG, and the line below."""

    jpeg: bytes
    caption: str


def picture_from_map(
    frame_u8: NDArray[np.uint8],
    relevance_u8: NDArray[np.uint8],
    caption: str,
    max_bytes: int,
    mask_u8: NDArray[np.uint8] | None = None,
) -> Picture:
    """A photograph, its defect outlined by a mask of its size, and its map, scaled down until the JPEG fits."""
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
    return Picture(jpeg_within(np.hstack([small_bgr_u8, gap_bgr_u8, heat_map_bgr_u8]), max_bytes), caption)


def draw_outline(pixels_bgr_u8: NDArray[np.uint8], defect: NDArray[np.bool_]) -> None:
    """Draw a line around the pixels [H, W] of a defect, clear of them, into a picture of their size."""
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _OUTLINE_DISTANCE_PX + 1,) * 2)
    near_u8 = cv2.dilate(defect.astype(np.uint8), around)
    contours, _ = cv2.findContours(near_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels_bgr_u8, contours, -1, _OUTLINE_BGR, 1)


def pictures_html(pictures: Sequence[Picture]) -> str:
    """The pictures beside each other as far as the page is wide; captions are escaped."""
    figures = (
        f'<figure><img alt="Photograph and heat map" src="{data_uri(picture.jpeg, "jpeg")}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def legend_html(lowest: str = "usual", highest: str = "unusual") -> str:
    """How the colours are read: a bar drawn as the heat maps are between its ends' names, and a sentence."""
    frame_u8 = np.full((_LEGEND_HEIGHT_PX, _LEGEND_WIDTH_PX), _MIDDLE_GREY_U8, np.uint8)
    ramp_u8 = np.tile(np.linspace(0, 255, _LEGEND_WIDTH_PX).astype(np.uint8), (_LEGEND_HEIGHT_PX, 1))
    png = cv2.imencode(".png", overlay(frame_u8, ramp_u8))[1].tobytes()
    bar = f'<img alt="From dark blue to yellow" src="{data_uri(png, "png")}">'
    return (
        f'<p class="legend">{escape(lowest)} {bar} {escape(highest)}</p>'
        '<p class="note">Each photograph has its heat map to the right: dark blue says nothing against the part, '
        "yellow marks the place that says most. The colours tell where to look; how bad it is, the score tells.</p>"
    )


def data_uri(data: bytes, kind: str) -> str:
    """An image file's bytes as the address that a page shows it by."""
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def jpeg_within(pixels_bgr_u8: NDArray[np.uint8], max_bytes: int) -> bytes:
    """At full size, or halved until it fits or hardly shows anything any more."""
    while True:
        jpeg = cv2.imencode(".jpg", pixels_bgr_u8, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        height_px, width_px = pixels_bgr_u8.shape[:2]
        if len(jpeg) <= max_bytes or min(height_px, width_px) < 2 * _LEAST_PX:
            return jpeg
        half = (width_px // 2, height_px // 2)
        pixels_bgr_u8 = np.asarray(cv2.resize(pixels_bgr_u8, half, interpolation=cv2.INTER_AREA), np.uint8)
