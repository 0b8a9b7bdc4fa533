"""Photographs that probably show one part but count as several parts: found by texture that no other photograph has.

Local patterns of a surface (SIFT descriptors, Lowe, IJCV 60, 2004) survive changes of exposure, shift, rotation and
crop. Patterns of the product's design are in every photograph and do not count: a pattern must be much nearer to one
photograph than to most others. So a part with 40 photographs or a quarter of all is not found, nor one without surface
texture; and a mark that a few parts share (a variant's print) makes them look like one part.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.decomposition import PCA
from torch import Tensor

from edge.image_file import read_image
from training.data.dataset import PARTS_CSV, Dataset, Photo
from training.data.dataset_yaml import DATASET_YAML
from training.data.photo_list import FILE, LABEL, MASK, PART_ID
from training.model import each_on_one_core

MIN_STRENGTH = 0.1
"""Of 776 photographs of magnetic tiles, no pair of two tiles is above 0.03; 99 % of one tile's are above 0.16.

If all parts have one design and there are few photographs, a pair of different parts is rarely above it.
"""
MAX_PHOTOS = 1000
"""All pairs of this many are compared in at most a minute on two cores; of more photographs a sample is compared."""

SUGGESTED_FILE = "parts-suggested.csv"

_SIDE_PX = 400
"""The square root of the area that a photograph is scaled to."""
_PATTERNS = 192
"""Patterns per photograph, the strongest ones."""
_FEATURES = 48
"""Features per pattern after PCA from 128: over 90 % of the variance."""
_MAX_RATIO = 0.7
"""Largest ratio of the distance to one photograph and that to most others (Lowe's ratio test, over photographs)."""
_MAX_ALIKE = 40
"""A part is assumed to have fewer photographs than this and than a quarter of all."""
_BLOCK = 16
"""Photographs per block, whose distances fit into a core's cache."""
_MIN_CONTRAST = 0.01
_CLAHE_LIMIT, _CLAHE_TILES = 4.0, (8, 8)
_EXAMPLES = 3
_SEED = 0

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files and the share of their patterns, 0 to 1, that match only each other."""

    first: str
    second: str
    strength: float


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The pairs, the strongest first, and the groups of files that they join; `compared` of `photos` were compared.

    `part_of` has the part of each file of a pair; it is empty if the dataset does not name the parts.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[str, ...], ...]
    compared: int
    photos: int
    part_of: Mapping[str, str] = field(default_factory=dict)

    def warning(self) -> str:
        """A warning that parts may be counted wrongly: counts, examples, remedy; empty without pairs."""
        if not self.pairs:
            return ""
        drawn = f"{self.compared} photographs drawn from {self.photos}"
        of = f"{self.photos} photographs" if self.compared == self.photos else drawn
        shown, parts = f"{sum(map(len, self.groups))} of {of}", len(self.groups)
        look = f"look like {parts} parts" if parts > 1 else "look like one part"
        examples = "; ".join(
            f"{self._named(pair.first)} and {self._named(pair.second)} ({pair.strength:.0%} of the texture)"
            for pair in self._examples()
        )
        harm = (
            "If a part is used for training and for testing, all figures are too optimistic, and it counts as evidence"
        )
        if self.part_of:
            return (
                f"{shown} have {len(set(self.part_of.values()))} part ids, but {look}. Similar are {examples}. {harm} "
                f"more than once. Give photographs of one part one part_id: {SUGGESTED_FILE} in the run proposes them; "
                f"look at the photographs, then copy it over {PARTS_CSV} or the CSV"
            )
        return (
            f"The parts are not named, so each photograph counts as a part; but {shown} {look}. Similar are "
            f"{examples}. {harm} more than once. Name the parts in {PARTS_CSV} (file,part_id), in the CSV's column "
            f"part_id, or by part_id_pattern in {DATASET_YAML}; {SUGGESTED_FILE} in the run is a start"
        )

    def _named(self, file: str) -> str:
        return f"{file} (part {self.part_of[file]})" if self.part_of else file

    def _examples(self) -> list[Pair]:
        """The strongest pair of each of the most similar groups."""
        examples = {}
        for pair in reversed(self.pairs):
            examples[next(group for group in self.groups if pair.first in group)] = pair
        return sorted(examples.values(), key=lambda pair: -pair.strength)[:_EXAMPLES]


@dataclass(frozen=True, eq=False, slots=True)
class _Library:
    """All patterns [n, _PATTERNS, D] and their squared lengths [n, _PATTERNS], infinite for missing patterns."""

    features: Tensor
    squares: Tensor


def near_duplicates(dataset: Dataset, console: Console) -> NearDuplicates:
    """Compare all pairs of photographs, or of `MAX_PHOTOS` drawn ones; pairs of one part id are left out.

    Raises:
        ProcunitError: a photograph cannot be read.
    """
    photos = dataset.photos
    compared = list(photos)
    if len(photos) > MAX_PHOTOS:
        compared = random.Random(_SEED).sample(compared, MAX_PHOTOS)  # noqa: S311  (a repeatable draw, no secret)
    found = each_on_one_core(_patterns, compared, "Looking for photographs of the same part", console)
    shown = [i for i, patterns in enumerate(found) if len(patterns)]
    files = [compared[i].file for i in shown]
    strengths = _strengths([found[i] for i in shown], console)
    pairs = [
        Pair(min(files[i], files[j]), max(files[i], files[j]), float(strengths[i, j]))
        for i, j in np.argwhere(np.triu(strengths, 1) >= MIN_STRENGTH)
        if compared[shown[i]].part_id != compared[shown[j]].part_id
    ]
    pairs.sort(key=lambda pair: (-pair.strength, pair.first, pair.second))
    paired = {file for pair in pairs for file in (pair.first, pair.second)}
    part_of = {photo.file: photo.part_id for photo in compared if photo.file in paired} if dataset.has_parts else {}
    groups = _groups((pair.first, pair.second) for pair in pairs)
    return NearDuplicates(tuple(pairs), groups, len(compared), len(photos), part_of)


def joined_parts(dataset: Dataset, found: NearDuplicates) -> dict[str, str]:
    """For every part id of the dataset, the id it should have if all pairs are right: the first of its group."""
    part_of = {photo.file: photo.part_id for photo in dataset.photos}
    joined = {part: part for part in sorted(part_of.values())}
    for group in _groups((part_of[pair.first], part_of[pair.second]) for pair in found.pairs):
        joined |= dict.fromkeys(group, group[0])
    return joined


def write_suggested(run: Path, dataset: Dataset, found: NearDuplicates) -> None:
    """Write the whole dataset with the joined part ids, for a person to check and to copy over `parts.csv` or the CSV.

    The column `part_id_was`, which is ignored on reading, has the former part id if it changes.
    """
    joined = joined_parts(dataset, found)
    with (run / SUGGESTED_FILE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow((FILE, LABEL, PART_ID, MASK, "part_id_was"))
        for photo in dataset.photos:
            part_id = joined[photo.part_id]
            mask = photo.mask.relative_to(dataset.root).as_posix() if photo.mask else ""
            was = photo.part_id if part_id != photo.part_id else ""
            table.writerow((photo.file, photo.label, part_id, mask, was))


def _patterns(photo: Photo) -> Matrix:
    """A photograph's strongest patterns [n, 128] after local contrast equalization; n is 0 without texture."""
    pixels = read_image(photo.path)
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2GRAY)
    scale = _SIDE_PX / math.sqrt(grey.size)
    scaled = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    scaled_u8 = cv2.convertScaleAbs(scaled, alpha=255 / max(1, int(scaled.max())))
    evened_u8 = cv2.createCLAHE(_CLAHE_LIMIT, _CLAHE_TILES).apply(scaled_u8)
    sift = cv2.SIFT.create(nfeatures=_PATTERNS, contrastThreshold=_MIN_CONTRAST)
    _, patterns = sift.detectAndCompute(evened_u8, None)
    if patterns is None:
        return np.zeros((0, 128), np.float32)
    strongest = np.asarray(patterns[:_PATTERNS], np.float32)
    return np.asarray(np.sqrt(strongest / np.maximum(strongest.sum(1, keepdims=True), 1)), np.float32)


def _strengths(patterns: Sequence[Matrix], console: Console) -> Matrix:
    """The similarity of any two photographs [n, n]: the share of patterns that match only the other."""
    photos = len(patterns)
    if photos < 3:  # the ratio test needs a third photograph
        return np.zeros((photos, photos), np.float32)
    library = _library(patterns)
    single_out = partial(_singled_out, library, min(_MAX_ALIKE, max(2, photos // 4)))
    counts = torch.stack(each_on_one_core(single_out, range(photos), "Comparing photographs", console)).numpy()
    return np.asarray((counts + counts.T) / (2 * _PATTERNS), np.float32)


@torch.inference_mode()
def _singled_out(library: _Library, rank: int, photo: int) -> Tensor:
    """For each photograph [n], how many patterns of `photo` are much nearer to it than to the `rank`th nearest."""
    features, squares = library.features[photo], library.squares[photo]
    nearest = torch.cat(
        [
            torch.addmm(block_squares.flatten(), features, block.flatten(0, 1).T, alpha=-2)
            .view(_PATTERNS, -1, _PATTERNS)
            .amin(2)
            for block, block_squares in zip(
                torch.split(library.features, _BLOCK), torch.split(library.squares, _BLOCK), strict=True
            )
        ],
        dim=1,
    )  # squared distances [_PATTERNS, n] minus the squared length of the pattern
    nearest = (nearest + squares[:, None]).clamp(min=0)
    nearest[:, photo] = torch.inf
    others = nearest.kthvalue(rank, dim=1, keepdim=True).values
    return (nearest < _MAX_RATIO**2 * others)[squares.isfinite()].sum(0).float()


def _library(patterns: Sequence[Matrix]) -> _Library:
    every = np.concatenate(patterns)
    reduced = PCA(min(_FEATURES, *every.shape), random_state=_SEED).fit_transform(every)
    features = torch.zeros(len(patterns), _PATTERNS, reduced.shape[1])
    squares = torch.full((len(patterns), _PATTERNS), torch.inf)
    ends = np.cumsum([len(found) for found in patterns])
    for photo, rows in enumerate(np.split(reduced, ends[:-1])):
        features[photo, : len(rows)] = torch.from_numpy(rows)
        squares[photo, : len(rows)] = features[photo, : len(rows)].square().sum(1)
    return _Library(features, squares)


def _groups(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The connected components of the pairs, the largest first."""
    group_of: dict[str, set[str]] = {}
    for first, second in pairs:
        joined = group_of.get(first, {first}) | group_of.get(second, {second})
        group_of |= dict.fromkeys(joined, joined)
    groups = {tuple(sorted(group)) for group in group_of.values()}
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))
