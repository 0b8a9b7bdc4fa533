"""The patches among which a bank's rows are chosen: streamed photograph by photograph, in memory that is bounded.

Good parts are never all good. What the head's defect maps mark on them stays out of the bank, or a mislabelled part
would silence the scorer for its kind of defect. Where all patches are too many, each photograph gives its share of
them, the most different ones first: a coreset of its own, whose covering radius is what is lost (coresets compose:
Har-Peled and Mazumdar, STOC 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from edge.bundle.manifest import GOOD
from edge.bundle.reader import file_entry_from_path
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.preprocess import PATCH_PX, judged_patches, mask_tiles, tensor_from_pixels
from export.bank.coreset import k_center_greedy
from export.bank.space import Matrix, PatchSpace, space_from_patches
from training.data.dataset import read_mask
from training.data.run_files import RunPhoto, TrainRecord
from training.model import DefectHead, InspectionModel, head_features, iterate_each_on_one_core, patch_features

MAX_CANDIDATES = 250_000
"""Patches of all photographs together: 63 MB of features."""
SPACE_PHOTOS = 128
"""Photographs that tell what good patches look like before any is chosen."""
MARKED_FROM, MOST_MARKED = 0.0, 0.05
"""Logit of a defect map from which a good part's patch is marked, and the share of all patches that may be, so that a
head which knows little does not empty the bank."""


@dataclass(frozen=True, eq=False)
class Patches:
    """A photograph's patches: features [n, C] and how much a defect's they look, the highest map's logit [n].

    `logits` [T] are the head's of the whole photograph.
    """

    features: Matrix
    marks: Matrix
    logits: Matrix


Reader = Callable[[RunPhoto], Patches]
"""From a photograph to its patches; it may be called by several threads at a time."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken of photographs: patches in this space whose mark is at most `mark_limit`."""

    space: PatchSpace
    mark_limit: float


@dataclass(frozen=True, eq=False)
class Candidates:
    """Patches float32 [n, D] in the bank's space, the place of each one's photograph [n], and what choosing them lost.

    No patch that may be in the bank is farther than `lost_radius` from a candidate of its photograph. Of each
    photograph, `marked` is the share of its patches that may not, and `logits` [photographs, T] are the head's.
    """

    patches: Tensor
    photo: Tensor
    lost_radius: float
    marked: Matrix
    logits: Matrix


def evenly_spaced(photos: Sequence[RunPhoto], count: int) -> list[RunPhoto]:
    """At most so many of the photographs, evenly spaced over them and so over the folders."""
    count = min(count, len(photos))
    return [photos[(2 * place + 1) * len(photos) // (2 * count)] for place in range(count)]


def places_by_part(photos: Sequence[RunPhoto]) -> dict[str, list[int]]:
    """The places of each part's photographs."""
    places: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        places.setdefault(photo.part_id, []).append(place)
    return places


def selection_from_photos(
    read: Reader, fine: int, photos: Sequence[RunPhoto], record: TrainRecord, console: Console
) -> Selection:
    """The space of good patches, and which may be in the bank, told from at most `SPACE_PHOTOS` evenly spaced ones.

    The first `fine` features of a patch are stride 8's.

    Raises:
        ProcunitError: a photograph cannot be read, or the masks leave nothing of any.
    """
    shown = evenly_spaced(photos, SPACE_PHOTOS)
    seen = list(iterate_each_on_one_core(read, shown, "Looking at good patches", console))
    features, marks = np.concatenate([one.features for one in seen]), np.concatenate([one.marks for one in seen])
    if not len(features):
        raise ProcunitError(
            "the masks leave nothing of any photograph", where=record.data, remedy="Add photographs of good parts"
        )
    limit = max(MARKED_FROM, float(np.quantile(marks, 1 - MOST_MARKED, method="higher")))
    return Selection(space_from_patches(features[marks <= limit], fine), limit)


def candidates_from_photos(
    read: Reader, photos: Sequence[RunPhoto], record: TrainRecord, selection: Selection, console: Console
) -> Candidates:
    """The photographs' patches that may be in the bank, or the most different of each.

    Raises:
        ProcunitError: a photograph cannot be read.
    """
    share = max(1, MAX_CANDIDATES // len(photos))

    def chosen(photo: RunPhoto) -> tuple[Tensor, float, float, Matrix]:
        found = read(photo)
        unmarked = found.marks <= selection.mark_limit
        patches = torch.from_numpy(selection.space.apply(found.features[unmarked]))
        marked = 1 - float(unmarked.mean()) if len(unmarked) else 0.0
        if len(patches) <= share:
            return patches, 0.0, marked, found.logits
        coreset = k_center_greedy(patches, share, record.seed)
        return patches[coreset.indices], coreset.covering_radius, marked, found.logits

    of_photos, radii, marked, logits = zip(
        *iterate_each_on_one_core(chosen, photos, "Computing features", console), strict=True
    )
    counts = torch.tensor([len(patches) for patches in of_photos])
    return Candidates(
        torch.cat(of_photos),
        torch.arange(len(photos)).repeat_interleave(counts),
        max(radii),
        np.array(marked, np.float32),
        np.stack(logits),
    )


@torch.inference_mode()
def patches_from_photo(model: InspectionModel, photo: RunPhoto, record: TrainRecord) -> Patches:
    """A photograph's patches that are judged and show no part of its mask.

    Raises:
        ProcunitError: it is gone or was changed since the training.
    """
    tiles_u8 = tiles_from_photo(photo, record)
    clean = _clean(tiles_u8, photo, record)
    taps = model.taps(torch.from_numpy(tiles_u8))
    features = patch_features(taps).permute(0, 2, 3, 1).flatten(0, 2).numpy()[clean]
    return marked_patches(features, clean, model.head if photo.label == GOOD else None, head_features(taps))


@torch.inference_mode()
def marked_patches(features: Matrix, clean: NDArray[np.bool_], head: DefectHead | None, of_head: Tensor) -> Patches:
    """A photograph's patches [n, C], the `clean` ones of all [P], as the head marks them; none are without a head.

    `of_head` are the head's own features of the photograph's tiles [N, D, h, w].
    """
    if head is None:
        return Patches(features, np.full(len(features), -np.inf, np.float32), np.zeros(0, np.float32))
    outputs = head(of_head)
    marks = outputs.defect_maps.amax(1).flatten().numpy()[clean]
    return Patches(features, marks, outputs.logits.amax(0).numpy())


def tiles_from_photo(photo: RunPhoto, record: TrainRecord) -> NDArray[np.uint8]:
    """A photograph as it enters the graph.

    Raises:
        ProcunitError: it is gone or was changed since the training.
    """
    path = Path(record.data) / photo.file
    pixels = read_image(path)
    if file_entry_from_path(path).sha256 != photo.sha256:
        raise ProcunitError("has changed since the training", where=str(path), remedy="Run `procunit train` again")
    return tensor_from_pixels(pixels, record.geometry)


def _clean(tiles_u8: NDArray[np.uint8], photo: RunPhoto, record: TrainRecord) -> NDArray[np.bool_]:
    """Which patches of a photograph's tiles are judged and show no part of its mask: [n]."""
    judged = judged_patches(tiles_u8).reshape(-1)
    if photo.mask is None:
        return judged
    data = Path(record.data)
    mask = read_mask(data / photo.mask, *read_image(data / photo.file).shape[:2])
    covered = F.max_pool2d(torch.from_numpy(mask_tiles(mask, record.geometry)), PATCH_PX) > 0
    return np.asarray(judged & ~covered.flatten().numpy(), np.bool_)
