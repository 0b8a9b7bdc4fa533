"""Photographs to what the head learns from: the frozen trunk runs once, its features are kept in half precision.

Memory grows by the input's patches times the trunk's features: 0.4 MB a photograph at 320 px with EfficientNet-B3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from edge.dataset import Photo, read_image, read_mask
from edge.messages import PixelArray
from edge.preprocess import Geometry, mask_tiles, tensor_from_pixels
from training.model import InspectionModel, each_on_one_core, head_features

PATCH_PX = 16


@dataclass(frozen=True, slots=True)
class Lesson:
    """One photograph that is learned from: its patches [P, D] in float16, their mean `context` [D] in float32.

    `coverage` [P] is how much of each patch the mask covers; None where no mask tells.
    """

    label: str
    part_id: str
    patches: Tensor
    context: Tensor
    coverage: Tensor | None


def checked_geometry(photos: Sequence[Photo], input_px: int, console: Console) -> Geometry:
    """Decode every photograph and mask, so that nothing fails later, and tell grey from colour.

    Raises:
        ProcunitError: a photograph or a mask is not usable; the text names the file.
    """
    colour = False
    for photo in track(photos, "Reading photographs", console=console):
        pixels = read_image(photo.path)
        colour = colour or _is_colour(pixels)
        if photo.mask is not None:
            read_mask(photo.mask, *pixels.shape[:2])
    return Geometry(input_height_px=input_px, input_width_px=input_px, channels=3 if colour else 1)


def lessons_from_photos(
    model: InspectionModel, photos: Sequence[Photo], geometry: Geometry, console: Console
) -> list[Lesson]:
    """Run the trunk over every photograph."""
    return each_on_one_core(partial(_lesson, model, geometry), photos, "Computing features", console)


@torch.no_grad()
def _lesson(model: InspectionModel, geometry: Geometry, photo: Photo) -> Lesson:
    pixels = read_image(photo.path)
    features = head_features(model.taps(torch.from_numpy(tensor_from_pixels(pixels, geometry))))
    patches = features.permute(0, 2, 3, 1).flatten(0, 2)
    return Lesson(photo.label, photo.part_id, patches.half(), patches.mean(0), _coverage(photo, pixels, geometry))


def _coverage(photo: Photo, pixels: PixelArray, geometry: Geometry) -> Tensor | None:
    """The share of each patch that the mask covers; an empty mask tells nothing."""
    if photo.mask is None:
        return None
    tiles = torch.from_numpy(mask_tiles(read_mask(photo.mask, *pixels.shape[:2]), geometry))
    return F.avg_pool2d(tiles, PATCH_PX).flatten() if tiles.any() else None


def _is_colour(pixels: PixelArray) -> bool:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return False
    blue, green, red = (pixels[:, :, channel] for channel in range(3))
    return not (np.array_equal(blue, green) and np.array_equal(green, red))
