"""The head's training samples: the frozen trunk runs once per photograph, its features are kept in half precision.

Memory grows with the input's patches times the trunk's features: 0.4 MB per photograph at 320 px with EfficientNet-B3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from edge.bundle.manifest import MASKS
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import PixelArray
from edge.preprocess import PATCH_PX, mask_tiles, tensor_from_pixels
from training.augment import reflected
from training.data.dataset import Dataset, Photo, read_mask
from training.data.dataset_yaml import Mirror
from training.data.folder_geometry import geometry_from_folder
from training.model import InspectionModel, each_on_one_core, head_features

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph's features: its patches [P, D] in float16 and their mean `context` [D] in float32.

    `grid` is the number of tiles and a tile's height and width in patches; P is their product. `coverage` [P] is the
    share of each patch that the mask covers; None without a mask. `mirrored` is used for training only, never scored.
    """

    label: str
    part_id: str
    patches: Tensor
    context: Tensor
    coverage: Tensor | None
    grid: tuple[int, int, int]
    mirrored: Sample | None = None


def checked_geometry(dataset: Dataset, input_px: int, console: Console) -> Geometry:
    """The data folder's geometry, after decoding every photograph and mask so that none fails later; finds `channels`.

    Regions and ignored areas are those of the data folder (`training.data.folder_geometry`).

    Raises:
        ProcunitError: a photograph, a mask or the folder's geometry is not usable; the message names the file.
    """
    asked = geometry_from_folder(dataset.root, input_px)
    colour, unseen = False, []
    for photo in track(dataset.photos, "Reading photographs", console=console):
        pixels = read_image(photo.path)
        colour = colour or _is_colour(pixels)
        asked.check_frame(photo.path, *pixels.shape[:2])
        if photo.mask is not None:
            mask_u8 = read_mask(photo.mask, *pixels.shape[:2])
            if (mask_u8 > 127).any() and not mask_tiles(mask_u8, asked.geometry).any():
                unseen.append(photo.file)
    if unseen:
        raise ProcunitError(
            f"the whole defect lies outside the inspected area in {len(unseen)} of the photographs: "
            f"{', '.join(unseen[:_MAX_NAMED])}{', ...' if len(unseen) > _MAX_NAMED else ''}",
            where=str(dataset.root / MASKS),
            remedy="Inspect that area, or remove these photographs: their defect cannot be trained on",
        )
    return asked.geometry.model_copy(update={"channels": 3 if colour else 1})


def samples_from_photos(
    model: InspectionModel,
    photos: Sequence[Photo],
    geometry: Geometry,
    mirrors: Sequence[Mirror],
    seed: int,
    console: Console,
) -> list[Sample]:
    """Run the trunk over every photograph and, if there are `mirrors`, over a random reflection of it."""
    return each_on_one_core(partial(_sample, model, geometry, mirrors, seed), photos, "Computing features", console)


@torch.no_grad()
def _sample(model: InspectionModel, geometry: Geometry, mirrors: Sequence[Mirror], seed: int, photo: Photo) -> Sample:
    pixels = read_image(photo.path)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])

    def sample_of(shown: PixelArray, marked_u8: NDArray[np.uint8] | None) -> Sample:
        features = head_features(model.taps(torch.from_numpy(tensor_from_pixels(shown, geometry))))
        return sample_from_features(photo.label, photo.part_id, features, coverage_from_mask(marked_u8, geometry))

    sample = sample_of(pixels, mask_u8)
    if not mirrors:
        return sample
    draw = np.random.default_rng([seed, int(photo.sha256[:8], 16)])
    return replace(sample, mirrored=sample_of(*reflected(pixels, mask_u8, mirrors, draw)))


def sample_from_features(label: str, part_id: str, features: Tensor, coverage: Tensor | None) -> Sample:
    """The sample of a photograph whose N tiles have the features [N, D, h, w]."""
    tiles, _, height, width = features.shape
    patches = features.permute(0, 2, 3, 1).flatten(0, 2).cpu()
    return Sample(label, part_id, patches.half(), patches.mean(0), coverage, (tiles, height, width))


def coverage_from_mask(mask_u8: NDArray[np.uint8] | None, geometry: Geometry) -> Tensor | None:
    """The share of each patch [P] that a photograph's mask [H, W] covers; None without a mask or with an empty one."""
    if mask_u8 is None:
        return None
    tiles = torch.from_numpy(mask_tiles(mask_u8, geometry))
    return F.avg_pool2d(tiles, PATCH_PX).flatten() if tiles.any() else None


def _is_colour(pixels: PixelArray) -> bool:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return False
    blue, green, red = (pixels[:, :, channel] for channel in range(3))
    return not (np.array_equal(blue, green) and np.array_equal(green, red))
