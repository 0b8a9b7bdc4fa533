"""Brightness and sharpness of a photograph, to be compared with those of good parts.

Measured on the inspected pixels of the network's input tiles, so that calibration and device measure the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.geometry import Geometry, placements
from edge.messages import PixelArray
from edge.preprocess import tensor_from_pixels, uninspected_pixels

_CROSS = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
"""The neighbourhood of a pixel that its Laplacian depends on."""


@dataclass(frozen=True, slots=True)
class Imaging:
    """Mean grey level (0 to 255) and variance of the Laplacian (grey levels squared), averaged over the tiles."""

    brightness: float
    sharpness: float


def imaging_from_pixels(pixels: PixelArray, geometry: Geometry) -> Imaging:
    """Brightness and sharpness of the inspected pixels of one frame.

    Raises:
        ProcunitError: the frame is no usable image, or a region is wholly ignored.
    """
    height_px, width_px = pixels.shape[:2]
    tiles_u8 = tensor_from_pixels(pixels, geometry.model_copy(update={"channels": 1}))[..., 0]
    uninspected = uninspected_pixels(height_px, width_px, geometry)
    brightness, sharpness = [], []
    for tile_u8, tile_uninspected, p in zip(
        tiles_u8, uninspected, placements(height_px, width_px, geometry), strict=True
    ):
        inner = slice(p.tile_y_px, p.tile_y_px + p.tile_height_px), slice(p.tile_x_px, p.tile_x_px + p.tile_width_px)
        part_u8, inspected_u8 = tile_u8[inner], (~tile_uninspected[inner]).view(np.uint8)
        brightness.append(float(cv2.mean(part_u8, inspected_u8)[0]))
        # The Laplacian beside an ignored pixel would measure the edge of its filling.
        clear_of_ignored_u8 = cv2.erode(inspected_u8, _CROSS)
        _, deviation = cv2.meanStdDev(cv2.Laplacian(part_u8, cv2.CV_64F), mask=clear_of_ignored_u8)
        sharpness.append(float(deviation[0, 0]) ** 2)
    return Imaging(float(np.mean(brightness)), float(np.mean(sharpness)))
