"""The candidate patches from which the memory bank's rows are chosen, read photograph by photograph in bounded memory.

Some parts in the good folder are defective. Patches that the head's defect maps flag are excluded; otherwise a
mislabelled part would hide its kind of defect from the anomaly scorer. If there are too many patches, each photograph
contributes a coreset of its own, whose covering radius bounds the loss (a union of coresets is a coreset: Har-Peled and
Mazumdar, STOC 2004).
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
from edge.preprocess import PATCH_PX, inspected_patches, mask_tiles, tensor_from_pixels
from export.bank.coreset import k_center_greedy
from export.bank.space import Matrix, PatchSpace, space_from_patches
from training.data.dataset import read_mask
from training.data.run_files import RunPhoto, TrainRecord
from training.model import DefectHead, InspectionModel, head_features, iterate_each_on_one_core, patch_features

MAX_CANDIDATES = 250_000
"""Limit for the patches of all photographs together: 63 MB of features."""
SPACE_PHOTOS = 128
"""Photographs from which the patch space and the exclusion limit are computed."""
EXCLUDED_FROM_LOGIT, MAX_EXCLUDED_SHARE = 0.0, 0.05
"""A good part's patch is excluded from this defect-map logit on, but at most this share of all patches is, so that a
poorly trained head does not empty the bank."""


@dataclass(frozen=True, eq=False)
class PhotoPatches:
    """A photograph's patches: features [n, C] and the highest defect-map logit of each [n].

    `logits` [T] are the head's for the whole photograph.
    """

    features: Matrix
    defect_logits: Matrix
    logits: Matrix


PatchReader = Callable[[RunPhoto], PhotoPatches]
"""Returns a photograph's patches; called from several threads at a time."""


@dataclass(frozen=True, slots=True)
class PatchSelection:
    """Which patches become candidates: those with at most this defect logit, in this space."""

    space: PatchSpace
    max_defect_logit: float


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidate patches float32 [n, D] in the bank's space, and the index of the photograph of each [n].

    No allowed patch is farther than `subsampling_radius` from a candidate of its photograph. Per photograph,
    `excluded_share` is the share of its patches that are excluded, and `logits` [photographs, T] are the head's.
    """

    patches: Tensor
    photo_index: Tensor
    subsampling_radius: float
    excluded_share: Matrix
    logits: Matrix


def evenly_spaced(photos: Sequence[RunPhoto], count: int) -> list[RunPhoto]:
    """At most `count` of the photographs, evenly spaced and therefore spread over the folders."""
    count = min(count, len(photos))
    return [photos[(2 * index + 1) * len(photos) // (2 * count)] for index in range(count)]


def photo_indices_by_part(photos: Sequence[RunPhoto]) -> dict[str, list[int]]:
    """The indices of each part's photographs."""
    indices: dict[str, list[int]] = {}
    for index, photo in enumerate(photos):
        indices.setdefault(photo.part_id, []).append(index)
    return indices


def selection_from_photos(
    read: PatchReader, stride8_features: int, photos: Sequence[RunPhoto], record: TrainRecord, console: Console
) -> PatchSelection:
    """The patch space and the exclusion limit, computed from at most `SPACE_PHOTOS` evenly spaced photographs.

    The first `stride8_features` features of a patch come from stride 8.

    Raises:
        ProcunitError: a photograph cannot be read, or the masks cover every patch.
    """
    sample_photos = evenly_spaced(photos, SPACE_PHOTOS)
    sample = list(iterate_each_on_one_core(read, sample_photos, "Looking at good patches", console))
    features = np.concatenate([patches.features for patches in sample])
    defect_logits = np.concatenate([patches.defect_logits for patches in sample])
    if not len(features):
        raise ProcunitError(
            "the defect masks cover every patch of every photograph, so no patch is left for the memory bank",
            where=record.data,
            remedy="Add photographs of good parts",
        )
    limit = max(EXCLUDED_FROM_LOGIT, float(np.quantile(defect_logits, 1 - MAX_EXCLUDED_SHARE, method="higher")))
    return PatchSelection(space_from_patches(features[defect_logits <= limit], stride8_features), limit)


def candidates_from_photos(
    read: PatchReader, photos: Sequence[RunPhoto], record: TrainRecord, selection: PatchSelection, console: Console
) -> Candidates:
    """The allowed patches of all photographs, or a coreset of each photograph's if there are too many.

    Raises:
        ProcunitError: a photograph cannot be read.
    """
    share = max(1, MAX_CANDIDATES // len(photos))

    def chosen(photo: RunPhoto) -> tuple[Tensor, float, float, Matrix]:
        found = read(photo)
        allowed = found.defect_logits <= selection.max_defect_logit
        patches = torch.from_numpy(selection.space.apply(found.features[allowed]))
        excluded_share = 1 - float(allowed.mean()) if len(allowed) else 0.0
        if len(patches) <= share:
            return patches, 0.0, excluded_share, found.logits
        coreset = k_center_greedy(patches, share, record.seed)
        return patches[coreset.indices], coreset.covering_radius, excluded_share, found.logits

    patches_of_photos, radii, excluded_shares, logits = zip(
        *iterate_each_on_one_core(chosen, photos, "Computing features", console), strict=True
    )
    counts = torch.tensor([len(patches) for patches in patches_of_photos])
    return Candidates(
        torch.cat(patches_of_photos),
        torch.arange(len(photos)).repeat_interleave(counts),
        max(radii),
        np.array(excluded_shares, np.float32),
        np.stack(logits),
    )


@torch.inference_mode()
def patches_from_photo(model: InspectionModel, photo: RunPhoto, record: TrainRecord) -> PhotoPatches:
    """A photograph's inspected patches that its defect mask does not touch.

    Raises:
        ProcunitError: the file is missing or has changed since the training.
    """
    tiles_u8 = tiles_from_photo(photo, record)
    clean = _clean(tiles_u8, photo, record)
    taps = model.taps(torch.from_numpy(tiles_u8))
    features = patch_features(taps).permute(0, 2, 3, 1).flatten(0, 2).numpy()[clean]
    return patches_with_defect_logits(features, clean, model.head if photo.label == GOOD else None, head_features(taps))


@torch.inference_mode()
def patches_with_defect_logits(
    features: Matrix, clean: NDArray[np.bool_], head: DefectHead | None, inputs_of_head: Tensor
) -> PhotoPatches:
    """Features [n, C] of a photograph's `clean` patches [P] with their defect logits: minus infinity without a head.

    `inputs_of_head` are the head's features of the photograph's tiles [N, D, h, w].
    """
    if head is None:
        return PhotoPatches(features, np.full(len(features), -np.inf, np.float32), np.zeros(0, np.float32))
    outputs = head(inputs_of_head)
    defect_logits = outputs.defect_maps.amax(1).flatten().numpy()[clean]
    return PhotoPatches(features, defect_logits, outputs.logits.amax(0).numpy())


def tiles_from_photo(photo: RunPhoto, record: TrainRecord) -> NDArray[np.uint8]:
    """A photograph as the graph's input tiles, uint8 [N, H, W, C].

    Raises:
        ProcunitError: the file is missing or has changed since the training.
    """
    path = Path(record.data) / photo.file
    pixels = read_image(path)
    if file_entry_from_path(path).sha256 != photo.sha256:
        raise ProcunitError("has changed since the training", where=str(path), remedy="Run `procunit train` again")
    return tensor_from_pixels(pixels, record.geometry)


def _clean(tiles_u8: NDArray[np.uint8], photo: RunPhoto, record: TrainRecord) -> NDArray[np.bool_]:
    """Which patches of a photograph's tiles are inspected and not touched by its defect mask: bool [P]."""
    inspected = inspected_patches(tiles_u8).reshape(-1)
    if photo.mask is None:
        return inspected
    data = Path(record.data)
    mask = read_mask(data / photo.mask, *read_image(data / photo.file).shape[:2])
    covered = F.max_pool2d(torch.from_numpy(mask_tiles(mask, record.geometry)), PATCH_PX) > 0
    return np.asarray(inspected & ~covered.flatten().numpy(), np.bool_)
