"""What a bundle tells of good parts and of defects, so that a grown bank is held to both without their photographs.

The distance of a patch to a grown bank is the smaller one of its distance to the bank before and to the rows added.
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
from edge.system.tensor_file import tensors_from_file

_GROWTH_FILES = frozenset({CALIBRATION, HELD_OUT, PATCHES_GRAPH})
_GOOD_KEYS = (PATCHES_KEY, DISTANCES_KEY, COUNTED_KEY)
_DEFECT_KEYS = (DEFECT_PATCHES_KEY, DEFECT_DISTANCES_KEY, DEFECT_COUNTED_KEY)
_Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Tile:
    """The patches float32 [P, D] of one tile of a frame that are judged, and how many of them make its score."""

    patches: NDArray[np.float32]
    counted: int


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The K farthest patches, over all tiles, of each of n held-out good photographs, to a bank made without its part.

    `patches` float32 [n, K, D], `distances` float32 [n, K], descending. A patch that is not kept is no farther than the
    last one. `counted` of them make a photograph's score, the fewest of any of its tiles, so that the score is at least
    the true one. `flagged_by_type` tells which photographs a type's score flags, whatever the bank.
    """

    patches: NDArray[np.float32]
    distances: NDArray[np.float32]
    counted: tuple[int, ...]
    part_ids: tuple[str, ...]
    flagged_by_type: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class StoredDefect:
    """A frame that shows a defect: its tiles, and of each the distances float32 [P] to the bundle's bank.

    Where only the farthest patches of the highest tile are kept, a score from them is at most the true one.
    """

    name: str
    flagged_by_type: bool
    tiles: tuple[Tile, ...]
    distances: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a grown bank is held to."""

    good: HeldOut
    defects: tuple[StoredDefect, ...]


def can_grow(manifest: Manifest) -> bool:
    """Whether a bundle has what its memory bank is grown by."""
    return manifest.anomaly is not None and set(manifest.files) >= _GROWTH_FILES


def evidence_from_bundle(content: BundleContent) -> Evidence:
    """The held-out good photographs and the defect photographs that the bundle was calibrated with.

    Raises:
        ProcunitError: the bundle is too old to have them, or they do not fit its bank and its calibration scores.
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
    tensors = tensors_from_file(content.path / HELD_OUT)
    if set(tensors) != {*_GOOD_KEYS, *_DEFECT_KEYS}:
        raise ProcunitError(f"holds the tensors {', '.join(sorted(tensors)) or 'none'}", where=where)
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
    """Whether any type's score is at its threshold; that does not depend on the bank.

    Raises:
        ProcunitError: there are not as many scores as types.
    """
    if len(type_scores) != len(types):
        raise ProcunitError(
            f"{len(type_scores)} scores for the bundle's {len(types)} types", remedy="Calibrate and build it again"
        )
    return any(score >= t.limit.threshold for score, t in zip(type_scores, types, strict=True))


def _farthest(
    tensors: _Tensors, keys: tuple[str, str, str], size: tuple[int, int], where: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, ...]]:
    """The patches [n, K, D], distances [n, K] and numbers of those that are counted, of (n, D), checked."""
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
        raise ProcunitError(f"{patches_key} or {distances_key} holds what is no finite number", where=where)
    near_first = distances.astype(np.float32)
    if (near_first < 0).any() or (np.diff(near_first, axis=1) > 0).any():
        raise ProcunitError(f"{distances_key} does not go from the farthest patch down", where=where)
    counts = tuple(int(count) for count in counted.astype(np.int32))
    if not all(1 <= count <= patches.shape[1] for count in counts):
        raise ProcunitError(f"{counted_key} is not within 1 and the {patches.shape[1]} patches kept", where=where)
    return np.ascontiguousarray(patches, np.float32), np.ascontiguousarray(near_first), counts


def _name(photo: PhotoScores) -> str:
    return f"the bundle's photograph of {photo.label}, part {photo.part_id} ({photo.sha256[:12]})"
