"""Features of the photographs, and which defect parts a draw hides among the good parts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.preprocess import inspected_patches, tensor_from_pixels
from training.data.dataset import Photo, read_mask
from training.features import Sample, coverage_from_mask, sample_from_features
from training.model import InspectionModel, head_features, patch_features

HIDDEN_SHARE = 0.05
"""Number of hidden parts as a share of the good parts in the bank."""
TESTED_GOOD, TESTED_DEFECTS = 0.25, 0.5


@dataclass(frozen=True, eq=False, slots=True)
class PhotoFeatures:
    """A photograph's features: the head's lesson, and the bank's features of its inspected patches.

    `patches` float16 [n, C] are the features of the patches selected by `inspected` [P].
    """

    photo: Photo
    lesson: Sample
    patches: NDArray[np.float16]
    inspected: NDArray[np.bool_]

    def called_good(self) -> PhotoFeatures:
        """The same photograph labelled good and without its mask."""
        lesson = replace(self.lesson, label=GOOD, coverage=None)
        return replace(self, photo=replace(self.photo, label=GOOD, mask=None), lesson=lesson)


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a draw: good ones in the bank, defective ones taught, hidden or tested, and good ones tested."""

    bank: frozenset[str]
    taught: frozenset[str]
    hidden: frozenset[str]
    tested_good: frozenset[str]
    tested_defects: frozenset[str]


@torch.inference_mode()
def features_from_photo(model: InspectionModel, geometry: Geometry, photo: Photo) -> PhotoFeatures:
    """Run the trunk on a photograph."""
    pixels = read_image(photo.path)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])
    tiles_u8 = tensor_from_pixels(pixels, geometry)
    taps, inspected = model.taps(torch.from_numpy(tiles_u8)), inspected_patches(tiles_u8).reshape(-1)
    lesson = sample_from_features(
        photo.label, photo.part_id, head_features(taps), coverage_from_mask(mask_u8, geometry)
    )
    patches = patch_features(taps).permute(0, 2, 3, 1).flatten(0, 2).half().cpu().numpy()[inspected]
    return PhotoFeatures(photo, lesson, patches, inspected)


def drawn_split(type_of: Mapping[str, str], types: Sequence[str], seed: int) -> Split:
    """Split the parts at random; `type_of` maps a part to `good` or its type. Hidden parts are taken from all types in
    turn.

    Raises:
        ProcunitError: there are too few parts; each type keeps at least one taught part.
    """
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    parts_of = {label: sorted(part for part in type_of if type_of[part] == label) for label in (GOOD, *types)}
    for parts in parts_of.values():
        draw.shuffle(parts)
    good = parts_of.pop(GOOD)
    tested_good, bank = _split_off_tested(good, TESTED_GOOD)
    cut = {name: _split_off_tested(parts, TESTED_DEFECTS) for name, parts in parts_of.items()}
    rest = {name: list(of_type) for name, (_, of_type) in cut.items()}
    wanted, hidden = max(1, round(HIDDEN_SHARE * len(bank))), list[str]()
    if not tested_good or sum(len(of_type) - 1 for of_type in rest.values()) < wanted:
        raise ProcunitError(
            f"{len(good)} good parts and {len(type_of) - len(good)} defect parts are too few to hide {wanted}",
            remedy="Give a folder with at least 4 good parts and with more defect parts per type",
        )
    for name in cycle(draw.sample(list(types), len(types))):
        if len(hidden) == wanted:
            break
        if len(rest[name]) > 1:
            hidden.append(rest[name].pop())
    return Split(
        bank=frozenset(bank),
        taught=frozenset(part for of_type in rest.values() for part in of_type),
        hidden=frozenset(hidden),
        tested_good=frozenset(tested_good),
        tested_defects=frozenset(part for tested, _ in cut.values() for part in tested),
    )


def types_of_parts(photos: Sequence[Photo]) -> dict[str, str]:
    """Each part's label; a part with any defect photograph is not good, and with two types it has the first."""
    type_of: dict[str, str] = {}
    for photo in sorted(photos, key=lambda photo: (photo.label == GOOD, photo.label)):
        type_of.setdefault(photo.part_id, photo.label)
    return type_of


def _split_off_tested(parts: Sequence[str], share: float) -> tuple[Sequence[str], Sequence[str]]:
    """Split off the tested share, rounded down: the tested parts and the rest."""
    tested = int(share * len(parts))
    return parts[:tested], parts[tested:]
