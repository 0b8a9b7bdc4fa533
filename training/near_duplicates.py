"""Photographs that probably show one part, but count as several: found by texture that no other photograph has.

Exposure, shift, rotation and crop leave the local patterns of a surface (SIFT's descriptors, Lowe, IJCV 60, 2004). What
the product's design puts into every photograph matches everywhere and counts for nothing: a pattern must be much nearer
to the one photograph than to most others. So a part is not found that has 40 photographs or a quarter of all, nor is
one whose surface shows nothing; and a mark that a few parts share (a variant's print) makes them look like one.
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
"""Of 776 photographs of magnetic tiles no pair of two tiles comes above 0.03, and 99 % of one tile's above 0.16.

Where all parts have one design and photographs are few, a rare pair of two parts comes above it.
"""
MAX_PHOTOS = 1000
"""As many are compared, each with each, in a minute or less on two cores; more are drawn from."""

SUGGESTED_FILE = "parts-suggested.csv"

_SIDE_PX = 400
"""The square root of the area that a photograph is scaled to."""
_PATTERNS = 192
"""The strongest of each photograph."""
_FEATURES = 48
"""Of a pattern's 128, by PCA: over 90 % of the variance."""
_MAX_RATIO = 0.7
"""Distance to the one photograph against that to most others (Lowe's ratio, over photographs)."""
_MAX_ALIKE = 40
"""A part is taken to have fewer photographs than that, or than a quarter of all."""
_BLOCK = 16
"""Photographs whose distances fit a core's cache."""
_MIN_CONTRAST = 0.01
_CLAHE_LIMIT, _CLAHE_TILES = 4.0, (8, 8)
_EXAMPLES = 3
_SEED = 0

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files and the share of their patterns, 0 to 1, that they have in common with each other alone."""

    first: str
    second: str
    strength: float


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The pairs, the strongest first, and the files that they join; `compared` of `photos` were looked at.

    `part_of` has the part of each file of a pair where the dataset names the parts, and is empty where it does not.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[str, ...], ...]
    compared: int
    photos: int
    part_of: Mapping[str, str] = field(default_factory=dict)

    def warning(self) -> str:
        """What a person should know of how parts are counted: counts, examples, remedy; empty for no pairs."""
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
        harm = "If a part is learned from and tested on, every figure comes out too good, and it counts as evidence"
        if self.part_of:
            return (
                f"{shown} have {len(set(self.part_of.values()))} part ids, but {look}. Alike are {examples}. {harm} "
                f"more than once. Give photographs of one part one part_id: {SUGGESTED_FILE} in the run proposes them; "
                f"look at the photographs, then copy it over {PARTS_CSV} or the CSV"
            )
        return (
            f"Nothing names the parts, so each photograph counts as a part; but {shown} {look}. Alike are "
            f"{examples}. {harm} more than once. Name the parts in {PARTS_CSV} (file,part_id), in the CSV's column "
            f"part_id, or by part_id_pattern in {DATASET_YAML}; {SUGGESTED_FILE} in the run is a start"
        )

    def _named(self, file: str) -> str:
        return f"{file} (part {self.part_of[file]})" if self.part_of else file

    def _examples(self) -> list[Pair]:
        """The strongest pair of each of the groups that are most alike."""
        examples = {}
        for pair in reversed(self.pairs):
            examples[next(group for group in self.groups if pair.first in group)] = pair
        return sorted(examples.values(), key=lambda pair: -pair.strength)[:_EXAMPLES]


@dataclass(frozen=True, eq=False, slots=True)
class _Library:
    """All patterns [n, _PATTERNS, D] and their squared lengths [n, _PATTERNS], infinite where there is none."""

    features: Tensor
    squares: Tensor


def near_duplicates(dataset: Dataset, console: Console) -> NearDuplicates:
    """Compare every photograph with every other, or `MAX_PHOTOS` drawn from them; pairs of one part are none.

    Raises:
        ProcunitError: a photograph cannot be read.
    """
    photos = dataset.photos
    compared = list(photos)
    if len(photos) > MAX_PHOTOS:
        compared = random.Random(_SEED).sample(compared, MAX_PHOTOS)  # noqa: S311  (a repeatable draw, no secret)
    found = each_on_one_core(_patterns, compared, "Looking for photographs of one part", console)
    shown = [place for place, patterns in enumerate(found) if len(patterns)]
    files = [compared[place].file for place in shown]
    strengths = _strengths([found[place] for place in shown], console)
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
    """Every part id of the dataset, and the one that it should have if all pairs are right: the group's first."""
    part_of = {photo.file: photo.part_id for photo in dataset.photos}
    joined = {part: part for part in sorted(part_of.values())}
    for group in _groups((part_of[pair.first], part_of[pair.second]) for pair in found.pairs):
        joined |= dict.fromkeys(group, group[0])
    return joined


def write_suggested(run: Path, dataset: Dataset, found: NearDuplicates) -> None:
    """Write the whole dataset with the joined part ids, for a person to check and to copy over `parts.csv` or the CSV.

    The column `part_id_was`, which is not read, has what a part was called where that changes.
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
    """A photograph's strongest patterns [n, 128], local contrast evened out; none where it shows nothing."""
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
    """How much alike any two photographs are: [n, n], by the share of patterns that single out the other."""
    photos = len(patterns)
    if photos < 3:  # nearer than to the others: there has to be another
        return np.zeros((photos, photos), np.float32)
    library = _library(patterns)
    single_out = partial(_singled_out, library, min(_MAX_ALIKE, max(2, photos // 4)))
    counts = torch.stack(each_on_one_core(single_out, range(photos), "Comparing photographs", console)).numpy()
    return np.asarray((counts + counts.T) / (2 * _PATTERNS), np.float32)


@torch.inference_mode()
def _singled_out(library: _Library, rank: int, place: int) -> Tensor:
    """How many patterns of a photograph are much nearer to each [n] than to the one that is `rank`th nearest."""
    features, squares = library.features[place], library.squares[place]
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
    )  # squared distances [_PATTERNS, n] less the pattern's own square
    nearest = (nearest + squares[:, None]).clamp(min=0)
    nearest[:, place] = torch.inf
    others = nearest.kthvalue(rank, dim=1, keepdim=True).values
    return (nearest < _MAX_RATIO**2 * others)[squares.isfinite()].sum(0).float()


def _library(patterns: Sequence[Matrix]) -> _Library:
    every = np.concatenate(patterns)
    reduced = PCA(min(_FEATURES, *every.shape), random_state=_SEED).fit_transform(every)
    features = torch.zeros(len(patterns), _PATTERNS, reduced.shape[1])
    squares = torch.full((len(patterns), _PATTERNS), torch.inf)
    ends = np.cumsum([len(found) for found in patterns])
    for place, rows in enumerate(np.split(reduced, ends[:-1])):
        features[place, : len(rows)] = torch.from_numpy(rows)
        squares[place, : len(rows)] = features[place, : len(rows)].square().sum(1)
    return _Library(features, squares)


def _groups(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The names that pairs join, directly or through others; the largest group first."""
    group_of: dict[str, set[str]] = {}
    for first, second in pairs:
        joined = group_of.get(first, {first}) | group_of.get(second, {second})
        group_of |= dict.fromkeys(joined, joined)
    groups = {tuple(sorted(group)) for group in group_of.values()}
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))
