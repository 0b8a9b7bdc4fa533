"""Photographs behind the trunk, and which of their parts a draw hides among the good ones."""

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
from edge.preprocess import judged_patches, tensor_from_pixels
from training.data.dataset import Photo, read_mask
from training.features import Sample, coverage_from_mask, sample_from_features
from training.model import InspectionModel, head_features, patch_features

HIDDEN_SHARE = 0.05
"""Of the good parts that the bank is made of."""
TESTED_GOOD, TESTED_DEFECTS = 0.25, 0.5


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """A photograph behind the trunk: what the head learns from it, and the bank's features of its judged patches.

    `patches` float16 [n, C] are the `judged` ones of all [P].
    """

    photo: Photo
    lesson: Sample
    patches: NDArray[np.float16]
    judged: NDArray[np.bool_]

    def called_good(self) -> Seen:
        """The same photograph in the folder of good ones, where it has no mask."""
        lesson = replace(self.lesson, label=GOOD, coverage=None)
        return replace(self, photo=replace(self.photo, label=GOOD, mask=None), lesson=lesson)


@dataclass(frozen=True, slots=True)
class Split:
    """A draw's parts: good ones of the bank, defects that are taught, hidden or tested, and good ones tested."""

    bank: frozenset[str]
    taught: frozenset[str]
    hidden: frozenset[str]
    tested_good: frozenset[str]
    tested_defects: frozenset[str]


@torch.inference_mode()
def seen_photo(model: InspectionModel, geometry: Geometry, photo: Photo) -> Seen:
    """Run the trunk over a photograph."""
    pixels = read_image(photo.path)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])
    tiles_u8 = tensor_from_pixels(pixels, geometry)
    taps, judged = model.taps(torch.from_numpy(tiles_u8)), judged_patches(tiles_u8).reshape(-1)
    lesson = sample_from_features(
        photo.label, photo.part_id, head_features(taps), coverage_from_mask(mask_u8, geometry)
    )
    patches = patch_features(taps).permute(0, 2, 3, 1).flatten(0, 2).half().cpu().numpy()[judged]
    return Seen(photo, lesson, patches, judged)


def drawn_split(type_of: Mapping[str, str], types: Sequence[str], seed: int) -> Split:
    """Split the parts, of which `type_of` names `good` or a type; hidden ones are of the types in turn.

    Raises:
        ProcunitError: there are too few parts: each type keeps one that is taught.
    """
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    parts_of = {label: sorted(part for part in type_of if type_of[part] == label) for label in (GOOD, *types)}
    for parts in parts_of.values():
        draw.shuffle(parts)
    good = parts_of.pop(GOOD)
    tested_good, bank = _cut(good, TESTED_GOOD)
    cut = {name: _cut(parts, TESTED_DEFECTS) for name, parts in parts_of.items()}
    rest = {name: list(of_type) for name, (_, of_type) in cut.items()}
    wanted, hidden = max(1, round(HIDDEN_SHARE * len(bank))), list[str]()
    if not tested_good or sum(len(of_type) - 1 for of_type in rest.values()) < wanted:
        raise ProcunitError(
            f"{len(good)} good parts and {len(type_of) - len(good)} defect parts are too few to hide {wanted}",
            remedy="Give a folder with at least 4 good parts and, of a type, more defect parts",
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
    """Each part's label; a part that shows a defect anywhere is no good part, and of two types it has the first."""
    type_of: dict[str, str] = {}
    for photo in sorted(photos, key=lambda photo: (photo.label == GOOD, photo.label)):
        type_of.setdefault(photo.part_id, photo.label)
    return type_of


def _cut(parts: Sequence[str], share: float) -> tuple[Sequence[str], Sequence[str]]:
    """The share that is tested, rounded down, and the rest."""
    tested = int(share * len(parts))
    return parts[:tested], parts[tested:]
