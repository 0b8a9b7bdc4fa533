"""Patches of good parts and of defects in a bundle, to check a grown bank against both without their photographs.

The distance of a patch to a grown bank is the smaller of its distances to the bank before and to the rows added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import (
    CALIBRATION,
    COUNTED_KEY,
    DEFECT_COUNTED_KEY,
    DEFECT_DISTANCES_KEY,
    DEFECT_PATCHES_KEY,
    DISTANCES_KEY,
    GOOD,
    HELD_OUT,
    PATCHES_GRAPH,
    PATCHES_KEY,
    DefectType,
    Manifest,
)
from edge.bundle.reader import BundleContent
from edge.bundle.records import PhotoScores
from edge.errors import ProcunitError
from edge.system.tensor_file import tensors_from_bytes

_GROWTH_FILES = frozenset({CALIBRATION, HELD_OUT, PATCHES_GRAPH})
_GOOD_KEYS = (PATCHES_KEY, DISTANCES_KEY, COUNTED_KEY)
_DEFECT_KEYS = (DEFECT_PATCHES_KEY, DEFECT_DISTANCES_KEY, DEFECT_COUNTED_KEY)
_Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Tile:
    """The inspected patches of one tile, float32 [P, D]; its score averages the `counted` farthest."""

    patches: NDArray[np.float32]
    counted: int


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The K patches, over all tiles, of n held-out good photographs that are farthest from a bank without their part.

    `patches` float32 [n, K, D], `distances` float32 [n, K], descending; a patch that is not kept is no farther than the
    last one. A photograph's score averages the first `counted` distances. That is the smallest count of its tiles, so
    the score is an upper bound. `flagged_by_type`: a type's score flags the photograph, whatever the bank.
    """

    patches: NDArray[np.float32]
    distances: NDArray[np.float32]
    counted: tuple[int, ...]
    part_ids: tuple[str, ...]
    flagged_by_type: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class StoredDefect:
    """A frame that shows a defect: its tiles, and for each tile the distances to the bundle's bank, float32 [P].

    If only the farthest patches of the tile with the highest score are kept, a score from them is a lower bound.
    """

    name: str
    flagged_by_type: bool
    tiles: tuple[Tile, ...]
    distances: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a grown bank is checked against."""

    good: HeldOut
    defects: tuple[StoredDefect, ...]


def can_grow(manifest: Manifest) -> bool:
    """True if the bundle has an anomaly score and the files that growing its memory bank needs."""
    return manifest.anomaly is not None and set(manifest.files) >= _GROWTH_FILES


def evidence_from_bundle(content: BundleContent) -> Evidence:
    """The held-out good photographs and the defect photographs that the bundle was calibrated with.

    Raises:
        ProcunitError: the bundle is too old to have them, or they do not fit its bank or its calibration scores.
    """
    files, where = content.manifest.files, str(content.path / HELD_OUT)
    missing = sorted(_GROWTH_FILES - set(files))
    if missing:
        raise ProcunitError(
            f"the bundle is too old for a bank that grows: it has no {', '.join(missing)}",
            where=str(content.path),
            remedy="Build it again, from `procunit export` on",
        )
    record = content.calibration()
    scores = () if record is None else record.scores
    good = [photo for photo in scores if photo.label == GOOD]
    defects = [photo for photo in scores if photo.label != GOOD]
    tensors = tensors_from_bytes(content.file(HELD_OUT).read_bytes(), where)
    if set(tensors) != {*_GOOD_KEYS, *_DEFECT_KEYS}:
        raise ProcunitError(f"unexpected tensors: {', '.join(sorted(tensors)) or 'none'}", where=where)
    features = content.bank().shape[1] - 1
    patches, distances, counted = _farthest(tensors, _GOOD_KEYS, (len(good), features), where)
    types = content.manifest.types
    return Evidence(
        HeldOut(
            patches,
            distances,
            counted,
            tuple(photo.part_id for photo in good),
            tuple(flagged_by_type(photo.type_scores, types) for photo in good),
        ),
        tuple(
            StoredDefect(_name(photo), flagged_by_type(photo.type_scores, types), (Tile(own, count),), (far,))
            for photo, own, far, count in zip(
                defects, *_farthest(tensors, _DEFECT_KEYS, (len(defects), features), where), strict=True
            )
        ),
    )


def flagged_by_type(type_scores: tuple[float, ...], types: tuple[DefectType, ...]) -> bool:
    """True if a type's score reaches its threshold; that does not depend on the bank.

    Raises:
        ProcunitError: the number of scores is not the number of types.
    """
    if len(type_scores) != len(types):
        raise ProcunitError(
            f"{len(type_scores)} scores for the bundle's {len(types)} types", remedy="Calibrate and build it again"
        )
    return any(score >= t.limit.threshold for score, t in zip(type_scores, types, strict=True))


def _farthest(
    tensors: _Tensors, keys: tuple[str, str, str], size: tuple[int, int], where: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, ...]]:
    """The patches [n, K, D], distances [n, K] and counts [n], checked; `size` is (n, D)."""
    patches_key, distances_key, counted_key = keys
    patches, distances, counted = (tensors[key] for key in keys)
    photographs, features = size
    fits = (
        patches.dtype == distances.dtype == np.float32
        and patches.ndim == 3
        and patches.shape[0] == photographs
        and patches.shape[2] == features
        and patches.shape[:2] == distances.shape
        and counted.dtype == np.int32
        and counted.shape == (photographs,)
    )
    if not fits:
        raise ProcunitError(
            f"{patches_key} {patches.dtype} {list(patches.shape)}, {distances_key} {list(distances.shape)} and "
            f"{counted_key} {counted.dtype} {list(counted.shape)} do not fit {photographs} photographs and {features} "
            "features",
            where=where,
            remedy="Build the bundle again",
        )
    if not (np.isfinite(patches.astype(np.float32)).all() and np.isfinite(distances.astype(np.float32)).all()):
        raise ProcunitError(f"{patches_key} or {distances_key} contains a value that is not finite", where=where)
    descending = distances.astype(np.float32)
    if (descending < 0).any() or (np.diff(descending, axis=1) > 0).any():
        raise ProcunitError(f"{distances_key} is negative or not in descending order", where=where)
    counts = tuple(int(count) for count in counted.astype(np.int32))
    if not all(1 <= count <= patches.shape[1] for count in counts):
        raise ProcunitError(f"{counted_key} is not between 1 and {patches.shape[1]}, the patches kept", where=where)
    return np.ascontiguousarray(patches, np.float32), np.ascontiguousarray(descending), counts


def _name(photo: PhotoScores) -> str:
    return f"the bundle's photograph of {photo.label}, part {photo.part_id} ({photo.sha256[:12]})"
