"""The camera above the belt: pose, optics and sensor; from radiance to an 8-bit grey photograph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.line_simulator.reflectance import ring_light_maps
from tools.line_simulator.surface import HEIGHT_PX, WIDTH_PX, Map, Surface, grid_px, stamping

WORKING_DISTANCE_PX = 1500.0
"""Distance from camera to part; near the frame's border the camera sees the part at an angle."""
FULL_WELL_ELECTRONS = 9000.0
READ_NOISE_ELECTRONS = 22.0
EXPOSURE = 1.1
"""Share of the full well that a white, level, matt surface would fill."""
VIGNETTING = 0.16
BELT_ALBEDO = 0.055
ADU_PER_WELL = 255.0


@dataclass(frozen=True)
class Pose:
    """Position of a part below the camera: an affine map from the part's pixels to the frame's."""

    matrix: NDArray[np.float64]

    def warp(self, image: Map) -> Map:
        """Transform an image from the part's frame to the camera's frame; border pixels are repeated outside."""
        size = (WIDTH_PX, HEIGHT_PX)
        warped = cv2.warpAffine(image, self.matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, np.float32)


def pose_from_rng(rng: np.random.Generator) -> Pose:
    """A random pose as the guides allow it: a few pixels off, about a degree turned, hardly nearer or farther."""
    centre = ((WIDTH_PX - 1) / 2, (HEIGHT_PX - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle=rng.normal(0, 0.8), scale=rng.normal(1, 0.003))
    matrix[:, 2] += np.clip(rng.normal(0, 2.5, 2), -8, 8)
    return Pose(np.asarray(matrix, np.float64))


def photograph(surface: Surface, pose: Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One exposure, grey [HEIGHT_PX, WIDTH_PX]: lens blur, vignetting, shot and read noise, clipping."""
    radiance = _scene(surface, pose, rng)
    blurred = cv2.GaussianBlur(radiance, (0, 0), float(rng.uniform(0.55, 0.85)))
    electrons = blurred * _vignette() * np.float32(EXPOSURE * rng.normal(1, 0.02) * FULL_WELL_ELECTRONS)
    noise = rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32)
    electrons += noise * np.sqrt(np.maximum(electrons, 0) + np.float32(READ_NOISE_ELECTRONS**2))
    return np.asarray(np.clip(electrons * np.float32(ADU_PER_WELL / FULL_WELL_ELECTRONS) + 0.5, 0, 255), np.uint8)


def _scene(surface: Surface, pose: Pose, rng: np.random.Generator) -> Map:
    """Radiance of the part over the belt, in the camera's frame."""
    x, y = grid_px()
    tilt = np.float32(1 / (2 * WORKING_DISTANCE_PX))  # a view at an angle acts like a tilt by half of it
    radiance = ring_light_maps().shade(surface.p + tilt * x, surface.q + tilt * y, surface.albedo, surface.bare)
    covered = np.clip(pose.warp(surface.silhouette), 0, 1)
    part = pose.warp(radiance * surface.visibility * surface.silhouette)
    rubber = cv2.GaussianBlur(rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32), (0, 0), 1.1)
    belt = BELT_ALBEDO * (1 + 0.9 * rubber) * pose.warp(stamping().belt_openness)
    return np.asarray(np.maximum(part, 0) + (1 - covered) * belt, np.float32)


@cache
def _vignette() -> Map:
    x, y = grid_px()
    half_diagonal = np.hypot(WIDTH_PX / 2, HEIGHT_PX / 2)
    return np.asarray(1 - VIGNETTING * np.square(np.hypot(x, y) / half_diagonal), np.float32)
