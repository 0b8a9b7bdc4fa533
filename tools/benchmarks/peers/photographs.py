"""The photographs of the accuracy benchmark as input for both sides, and their folds by part."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from edge.geometry import Geometry, Region, placements
from edge.image_file import read_image
from edge.preprocess import mask_tiles, tensor_from_pixels
from tools.benchmarks.joined_parts import dataset_with_joined_parts
from training.data.dataset import Dataset, Photo, dataset_from_folder, read_mask
from training.features import checked_geometry
from training.weights import TrunkWeights, trunk_weights

FOLDS = 5
SEED = 0
MAX_PEER_PHOTOS = 48
"""Good parts in a comparison's bank, one photograph each: the time of anomalib's coreset grows with the square of the
number of patches, and takes hours on a CPU with all photographs."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A folder's photographs and the trunk, saved once: `inputs` uint8 [photographs, H, W, C], `weights_file`.

    Parts of the `dataset` that look alike are joined into one; `given_parts` is their number in the folder.
    """

    dataset: Dataset
    given_parts: int
    geometry: Geometry
    weights: TrunkWeights
    inputs: Path
    weights_file: Path


@dataclass(frozen=True, slots=True)
class Fold:
    """Indices into the dataset's photographs: the good ones in the bank, and those that are scored.

    `bank` has all good photographs of the fold, `bank_one_a_part` one of each of at most `MAX_PEER_PHOTOS` parts.
    """

    bank: tuple[int, ...]
    bank_one_a_part: tuple[int, ...]
    scored: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """The part's window on its tile, and which pixels of it show a defect; None if there is no mask."""

    window: tuple[slice, slice]
    defect: NDArray[np.bool_] | None


def contest_from_folder(
    data: Path, backbone: str, weights_file: Path | None, input_px: int, directory: Path, console: Console
) -> Contest:
    """Read a labelled folder and write the inputs of both sides into `directory`.

    Raises:
        ProcunitError: the folder or the weights are not usable, or only a region of the photographs is inspected.
    """
    given = dataset_from_folder(data)
    geometry = checked_geometry(given, input_px, console)
    if geometry.regions != (Region(),) or geometry.ignored:
        raise ProcunitError(
            "the folder has regions or ignored areas, but the benchmark needs whole photographs",
            where=str(data),
            remedy="Give a folder without geometry.yaml and ignored.png",
        )
    weights = trunk_weights(backbone, weights_file)
    dataset = dataset_with_joined_parts(given, console)
    given_parts = len({photo.part_id for photo in given.photos})
    contest = Contest(
        dataset, given_parts, geometry, weights, directory / "inputs.npy", directory / "weights.safetensors"
    )
    shape = (len(dataset.photos), input_px, input_px, geometry.channels)
    inputs = open_memmap(contest.inputs, mode="w+", dtype=np.uint8, shape=shape)
    for index, photo in enumerate(dataset.photos):
        inputs[index] = tensor_from_pixels(read_image(photo.path), geometry)[0]
    inputs.flush()
    save_file({name: tensor.contiguous() for name, tensor in weights.state.items()}, contest.weights_file)
    return contest


def folds_by_part(photos: Sequence[Photo], count: int) -> list[Fold]:
    """The first `count` of `FOLDS` folds: banks from the other folds' good parts, scored on its own and all defects.

    A part with a defect in any photograph is not a good part; its good photographs are left out.

    Raises:
        ProcunitError: there are fewer good parts than folds, or no defects.
    """
    defective = {photo.part_id for photo in photos if photo.label != GOOD}
    indices: dict[str, list[int]] = {}
    for index, photo in enumerate(photos):
        if photo.part_id not in defective:
            indices.setdefault(photo.part_id, []).append(index)
    if len(indices) < FOLDS or not defective:
        raise ProcunitError(
            f"{len(indices)} good parts and {len(defective)} defect parts are too few",
            remedy=f"Give a folder with at least {FOLDS} good parts and one defect part",
        )
    draw = random.Random(SEED)  # noqa: S311  (a repeatable draw, no secret)
    parts = sorted(indices)
    draw.shuffle(parts)
    drawn = {part: draw.choice(indices[part]) for part in parts}
    defects = [index for index, photo in enumerate(photos) if photo.label != GOOD]
    folds = []
    for number in range(count):
        scored = parts[number::FOLDS]
        banked = [part for part in parts if part not in scored]
        folds.append(
            Fold(
                bank=tuple(sorted(index for part in banked for index in indices[part])),
                bank_one_a_part=tuple(sorted(drawn[part] for part in banked[:MAX_PEER_PHOTOS])),
                scored=tuple(sorted([index for part in scored for index in indices[part]] + defects)),
            )
        )
    return folds


def truth_of_photo(photo: Photo, geometry: Geometry) -> Truth:
    """The ground truth of a photograph at the model's input resolution."""
    height_px, width_px = read_image(photo.path).shape[:2]
    (p,) = placements(height_px, width_px, geometry)
    window = (
        slice(p.tile_y_px, p.tile_y_px + p.tile_height_px),
        slice(p.tile_x_px, p.tile_x_px + p.tile_width_px),
    )
    if photo.label == GOOD:
        return Truth(window, np.zeros((p.tile_height_px, p.tile_width_px), np.bool_))
    if photo.mask is None:
        return Truth(window, None)
    return Truth(window, mask_tiles(read_mask(photo.mask, height_px, width_px), geometry)[0][window] > 0.5)
