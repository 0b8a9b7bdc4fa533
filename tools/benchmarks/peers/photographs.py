"""The photographs of the accuracy benchmark as both sides read them, and how their parts are split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from training.data.dataset import Dataset, Photo, dataset_from_folder, read_mask
from training.features import checked_geometry
from training.near_duplicates import joined_parts, near_duplicates
from training.weights import TrunkWeights, trunk_weights

FOLDS = 5
SEED = 0
MAX_PEER_PHOTOS = 48
"""Good parts that the banks of a comparison are made of, one photograph each: anomalib's choice of rows grows with the
square of the patches, and takes hours on a CPU with all of them."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A folder's photographs and the trunk, saved once: `inputs` uint8 [photographs, H, W, C], `weights_file`.

    Parts of the `dataset` that look alike are joined to one; `given_parts` is how many the folder names.
    """

    dataset: Dataset
    given_parts: int
    geometry: Geometry
    weights: TrunkWeights
    inputs: Path
    weights_file: Path


@dataclass(frozen=True, slots=True)
class Fold:
    """Places in the dataset's photographs: good ones that banks are made of, and those judged.

    `bank` has all of the fold, `bank_one_a_part` one of each of at most `MAX_PEER_PHOTOS` parts.
    """

    bank: tuple[int, ...]
    bank_one_a_part: tuple[int, ...]
    judged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """Where the part lies on its tile, and which of those pixels show a defect; None where no mask tells."""

    window: tuple[slice, slice]
    defect: NDArray[np.bool_] | None


def contest_from_folder(
    data: Path, backbone: str, weights_file: Path | None, input_px: int, directory: Path, console: Console
) -> Contest:
    """Read a labelled folder and write what both sides start from into `directory`.

    Raises:
        ProcunitError: the folder or the weights are not usable, or it is not whole photographs that are judged.
    """
    given = dataset_from_folder(data)
    geometry = checked_geometry(given, input_px, console)
    if geometry.regions != (Region(),) or geometry.ignored:
        raise ProcunitError(
            "the folder names regions or ignored areas, and the peers judge whole photographs",
            where=str(data),
            remedy="Give a folder without geometry.yaml and ignored.png",
        )
    weights = trunk_weights(backbone, weights_file)
    joined = joined_parts(given, near_duplicates(given, console))
    dataset = replace(given, photos=tuple(replace(photo, part_id=joined[photo.part_id]) for photo in given.photos))
    contest = Contest(
        dataset, len(joined), geometry, weights, directory / "inputs.npy", directory / "weights.safetensors"
    )
    shape = (len(dataset.photos), input_px, input_px, geometry.channels)
    inputs = open_memmap(contest.inputs, mode="w+", dtype=np.uint8, shape=shape)
    for place, photo in enumerate(dataset.photos):
        inputs[place] = tensor_from_pixels(read_image(photo.path), geometry)[0]
    inputs.flush()
    save_file({name: tensor.contiguous() for name, tensor in weights.state.items()}, contest.weights_file)
    return contest


def folds_by_part(photos: Sequence[Photo], count: int) -> list[Fold]:
    """The first `count` of `FOLDS` folds: banks from the good parts of the others, judged on its own and all defects.

    A part that shows a defect anywhere is no good part, and good photographs of it are left out.

    Raises:
        ProcunitError: there are fewer good parts than folds, or no defects.
    """
    defective = {photo.part_id for photo in photos if photo.label != GOOD}
    places: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        if photo.part_id not in defective:
            places.setdefault(photo.part_id, []).append(place)
    if len(places) < FOLDS or not defective:
        raise ProcunitError(
            f"{len(places)} good parts and {len(defective)} defect parts",
            remedy=f"Give a folder with at least {FOLDS} good parts and one defect part",
        )
    draw = random.Random(SEED)  # noqa: S311  (a repeatable draw, no secret)
    parts = sorted(places)
    draw.shuffle(parts)
    drawn = {part: draw.choice(places[part]) for part in parts}
    defects = [place for place, photo in enumerate(photos) if photo.label != GOOD]
    folds = []
    for number in range(count):
        judged = parts[number::FOLDS]
        banked = [part for part in parts if part not in judged]
        folds.append(
            Fold(
                bank=tuple(sorted(place for part in banked for place in places[part])),
                bank_one_a_part=tuple(sorted(drawn[part] for part in banked[:MAX_PEER_PHOTOS])),
                judged=tuple(sorted([place for part in judged for place in places[part]] + defects)),
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
