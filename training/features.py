"""Photographs to what the head learns from: the frozen trunk runs once, its features are kept in half precision.

Memory grows by the input's patches times the trunk's features: 0.4 MB a photograph at 320 px with EfficientNet-B3.
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

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph that is learned from: its patches [P, D] in float16, their mean `context` [D] in float32.

    `grid` is its tiles and a tile's height and width in patches, P their product. `coverage` [P] is how much of each
    patch the mask covers; None where no mask tells. `mirrored` is taught along with it and never judged.
    """

    label: str
    part_id: str
    patches: Tensor
    context: Tensor
    coverage: Tensor | None
    grid: tuple[int, int, int]
    mirrored: Sample | None = None


def checked_geometry(dataset: Dataset, input_px: int, console: Console) -> Geometry:
    """Decode every photograph and mask, so that nothing fails later, and tell grey from colour.

    Regions and ignored areas are the data folder's own (`training.data.folder_geometry`).

    Raises:
        ProcunitError: a photograph, a mask or the folder's geometry is not usable; the text names the file.
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
            f"the whole defect lies where nothing is judged, in {len(unseen)} of the photographs: "
            f"{', '.join(unseen[:_NAMED])}{', ...' if len(unseen) > _NAMED else ''}",
            where=str(dataset.root / MASKS),
            remedy="Judge that place, or take these photographs out: nothing of their defect would be taught",
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
    """Run the trunk over every photograph and, where there are `mirrors`, over a drawn reflection of it."""
    return each_on_one_core(partial(_sample, model, geometry, mirrors, seed), photos, "Computing features", console)


@torch.no_grad()
def _sample(model: InspectionModel, geometry: Geometry, mirrors: Sequence[Mirror], seed: int, photo: Photo) -> Sample:
    pixels = read_image(photo.path)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])

    def seen(shown: PixelArray, marked_u8: NDArray[np.uint8] | None) -> Sample:
        features = head_features(model.taps(torch.from_numpy(tensor_from_pixels(shown, geometry))))
        return sample_from_features(photo.label, photo.part_id, features, coverage_from_mask(marked_u8, geometry))

    sample = seen(pixels, mask_u8)
    if not mirrors:
        return sample
    draw = np.random.default_rng([seed, int(photo.sha256[:8], 16)])
    return replace(sample, mirrored=seen(*reflected(pixels, mask_u8, mirrors, draw)))


def sample_from_features(label: str, part_id: str, features: Tensor, coverage: Tensor | None) -> Sample:
    """What a photograph of tiles with the features [N, D, h, w] teaches."""
    tiles, _, height, width = features.shape
    patches = features.permute(0, 2, 3, 1).flatten(0, 2).cpu()
    return Sample(label, part_id, patches.half(), patches.mean(0), coverage, (tiles, height, width))


def coverage_from_mask(mask_u8: NDArray[np.uint8] | None, geometry: Geometry) -> Tensor | None:
    """The share of each patch [P] that a photograph's mask [H, W] covers; an empty mask tells nothing."""
    if mask_u8 is None:
        return None
    tiles = torch.from_numpy(mask_tiles(mask_u8, geometry))
    return F.avg_pool2d(tiles, PATCH_PX).flatten() if tiles.any() else None


def _is_colour(pixels: PixelArray) -> bool:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return False
    blue, green, red = (pixels[:, :, channel] for channel in range(3))
    return not (np.array_equal(blue, green) and np.array_equal(green, red))
