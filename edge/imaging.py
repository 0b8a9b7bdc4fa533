"""How the photographs look, apart from what is on them: brightness and sharpness, compared with those of good parts.

Taken on the tiles that the network sees, without the padding, so that calibration and the device measure the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.messages import PixelArray
from edge.preprocess import Geometry, placements, tensor_from_pixels


@dataclass(frozen=True, slots=True)
class Imaging:
    """Mean grey level (0 to 255) and variance of the Laplacian (grey levels squared), means over the tiles."""

    brightness: float
    sharpness: float


def imaging_from_pixels(pixels: PixelArray, geometry: Geometry) -> Imaging:
    """Brightness and sharpness of one frame.

    Raises:
        ProcunitError: the frame is no usable image.
    """
    tiles_u8 = tensor_from_pixels(pixels, geometry.model_copy(update={"channels": 1}))[..., 0]
    brightness, sharpness = [], []
    for tile_u8, p in zip(tiles_u8, placements(pixels.shape[0], pixels.shape[1], geometry), strict=True):
        inner = tile_u8[p.tile_y_px : p.tile_y_px + p.tile_height_px, p.tile_x_px : p.tile_x_px + p.tile_width_px]
        brightness.append(float(inner.mean()))
        sharpness.append(float(cv2.Laplacian(inner, cv2.CV_64F).var()))
    return Imaging(float(np.mean(brightness)), float(np.mean(sharpness)))
