"""Labelled photographs: `good/` and one folder per defect type, with `masks/TYPE/` and `parts.csv`, or one CSV file.

Training, calibration and evaluation read them here. Photographs of one part are not independent, so each has a
`part_id`, from a CSV or from its name by the pattern in `dataset.yaml`; without either, every photograph counts as a
separate part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import GOOD, MASKS
from edge.errors import ProcunitError
from edge.image_file import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, pixels_from_bytes
from edge.system.files import bytes_from_file
from training.data.dataset_yaml import DATASET_YAML, PART_GROUP, dataset_file_from_folder, pattern_from_text
from training.data.photo_list import FILE, LABEL, PART_ID, PhotoRow, photo_rows_from_csv

PARTS_CSV = "parts.csv"


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled photograph; `file` is relative to the dataset's folder, `label` is `good` or a defect type."""

    path: Path
    file: str
    sha256: str
    part_id: str
    label: str
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Photographs sorted by file; `has_parts` is true if a CSV or a pattern named their parts.

    `root` is the folder that files are relative to: the parent of the class folders or of the CSV.
    """

    root: Path
    photos: tuple[Photo, ...]
    has_parts: bool

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types, sorted."""
        return tuple(sorted({photo.label for photo in self.photos} - {GOOD}))

    @property
    def sha256(self) -> str:
        """A hash over the content, label and part of all photographs."""
        digest = hashlib.sha256()
        for photo in self.photos:
            digest.update(f"{photo.sha256} {photo.label} {photo.part_id}\n".encode())
        return digest.hexdigest()


def dataset_from_path(path: Path) -> Dataset:
    """Read a folder (`dataset_from_folder`) or a CSV file (`dataset_from_csv`).

    Raises:
        ProcunitError: there is neither, or it is not usable.
    """
    return dataset_from_csv(path) if path.is_file() else dataset_from_folder(path)


def dataset_from_folder(root: Path) -> Dataset:
    """Read a labelled folder; images are hashed here and decoded by `read_image` when they are needed.

    Raises:
        ProcunitError: no such folder, an empty class folder, a `parts.csv` that does not fit or contradicts a
            photograph's folder, or a name in which the pattern finds no part.
    """
    if not root.is_dir():
        remedy = f"Name a folder of {GOOD}/ and one folder per type, or a CSV file with the columns {FILE} and {LABEL}"
        raise ProcunitError("no such folder", where=str(root), remedy=remedy)
    labels = {
        image.relative_to(root).as_posix(): folder.name
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name != MASKS and not p.name.startswith("."))
        for image in _images(folder)
    }
    if not labels:
        raise ProcunitError(
            "no class folder here", where=str(root), remedy=f"Put photographs in {GOOD}/ and one folder per defect type"
        )
    _refuse_labels_differing_in_case(labels.values(), str(root))
    named = _named_by_parts_csv(root / PARTS_CSV, labels)
    parts = named or _named_by_pattern(root, labels)
    photos = (
        Photo(root / file, file, _sha256(root / file), (parts or {}).get(file, file), label, _mask(root, label, file))
        for file, label in labels.items()
    )
    return Dataset(root, tuple(photos), parts is not None)


def dataset_from_csv(path: Path) -> Dataset:
    """Read a CSV file of `file,label` and, where known, `part_id` and `mask`; paths are relative to its folder.

    Raises:
        ProcunitError: a line is not usable or names a file that does not exist, or the pattern finds no part in a name.
    """
    root, rows = path.parent, photo_rows_from_csv(path, (FILE, LABEL))
    if not rows:
        raise ProcunitError("lists no photograph", where=str(path), remedy="Add a line for each photograph")
    for row in rows:
        for name in (row.file, row.mask):
            if name is not None and not os.path.isfile(root / name):  # Path.is_file raises on names that are too long
                raise _absent(name, path, row)
    _refuse_labels_differing_in_case({str(row.label) for row in rows}, str(path))
    named = {row.file: row.part_id for row in rows if row.part_id is not None} or None
    if named:
        _refuse_two_sources(root, path)
    parts = named or _named_by_pattern(root, [row.file for row in rows])
    photos = (
        Photo(
            root / row.file,
            row.file,
            _sha256(root / row.file),
            parts[row.file] if parts else row.file,
            str(row.label),
            root / row.mask if row.mask else None,
        )
        for row in sorted(rows, key=lambda row: PurePosixPath(row.file))
    )
    return Dataset(root, tuple(photos), parts is not None)


def read_mask(path: Path, frame_height_px: int, frame_width_px: int) -> NDArray[np.uint8]:
    """A mask [H, W] of the photograph's size, over 127 = defect; one of the same aspect ratio is scaled.

    Raises:
        ProcunitError: the mask is not readable, or has another aspect ratio than the photograph.
    """
    try:
        mask = pixels_from_bytes(bytes_from_file(path, MAX_IMAGE_BYTES), str(path), cv2.IMREAD_GRAYSCALE)
    except ProcunitError as error:
        what = error.what.removeprefix("not a readable image: ")
        raise ProcunitError(
            f"not a readable mask image: {what}", where=str(path), remedy="Export the mask again, as PNG"
        ) from error
    height_px, width_px = mask.shape
    if (height_px, width_px) == (frame_height_px, frame_width_px):
        return np.asarray(mask, np.uint8)
    if abs(height_px * frame_width_px - width_px * frame_height_px) > max(frame_width_px, frame_height_px):
        raise ProcunitError(
            f"the mask is {width_px} x {height_px} px, its photograph {frame_width_px} x {frame_height_px} px",
            where=str(path),
            remedy="Export the mask at the photograph's size",
        )
    scaled = cv2.resize(mask, (frame_width_px, frame_height_px), interpolation=cv2.INTER_NEAREST)
    return np.asarray(scaled, np.uint8)


def _images(folder: Path) -> list[Path]:
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise ProcunitError(
            "the class folder holds no image",
            where=str(folder),
            remedy=f"Put photographs ({', '.join(sorted(IMAGE_SUFFIXES))}) in it or remove it",
        )
    return images


def _mask(root: Path, label: str, file: str) -> Path | None:
    mask = root / MASKS / label / f"{PurePosixPath(file).stem}.png"
    return mask if mask.is_file() else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(bytes_from_file(path, MAX_IMAGE_BYTES)).hexdigest()


def _named_by_parts_csv(path: Path, labels: Mapping[str, str]) -> dict[str, str] | None:
    """The part ids of `parts.csv` by file, checked against the folders' `labels`; None without the file."""
    if not path.exists():
        return None
    _refuse_two_sources(path.parent, path)
    rows = photo_rows_from_csv(path, (FILE, PART_ID))
    for row in rows:
        if row.file not in labels:
            raise _absent(row.file, path, row)
        if row.label not in (None, labels[row.file]):
            raise ProcunitError(
                f"{row.file} is labelled {row.label!r}, but lies in the folder {labels[row.file]!r}",
                where=f"{path}:{row.line}",
                remedy=f"Move the photograph to {row.label}/, or write {labels[row.file]} in this line",
            )
    return {row.file: str(row.part_id) for row in rows}


def _named_by_pattern(root: Path, files: Collection[str]) -> dict[str, str] | None:
    """The part ids that the pattern of `dataset.yaml` finds in the files' names; None without a pattern."""
    pattern = dataset_file_from_folder(root).part_id_pattern
    if pattern is None:
        return None
    compiled, parts = pattern_from_text(pattern), {}
    for file in files:
        name = PurePosixPath(file).name.encode(errors="replace").decode()  # a name may hold bytes that are no UTF-8
        found = compiled.search(name)
        part = None if found is None else found[PART_GROUP]
        if not part:
            raise ProcunitError(
                f"part_id_pattern {pattern!r} finds no part in the name of {file}",
                where=str(root / DATASET_YAML),
                remedy=f"Rename the photograph, widen the pattern, or name the parts in {PARTS_CSV} instead",
            )
        parts[file] = part
    return parts


def _refuse_two_sources(root: Path, source: Path) -> None:
    if dataset_file_from_folder(root).part_id_pattern is not None:
        raise ProcunitError(
            f"has a part_id_pattern, but {source.name} names the parts, too",
            where=str(root / DATASET_YAML),
            remedy="Keep one of the two",
        )


def _refuse_labels_differing_in_case(labels: Collection[str], where: str) -> None:
    """Refuse two labels that differ only in upper and lower case: somebody wrote one label in two ways."""
    seen = {GOOD: GOOD}
    for label in sorted(labels):
        if (other := seen.setdefault(label.casefold(), label)) != label:
            raise ProcunitError(
                f"the labels {other!r} and {label!r} differ only in upper and lower case",
                where=where,
                remedy=f"Write each label in one way; the label of good parts is {GOOD!r}",
            )


def _absent(name: str, path: Path, row: PhotoRow) -> ProcunitError:
    return ProcunitError(
        f"names {name}, which does not exist",
        where=f"{path}:{row.line}",
        remedy=f"Paths are relative to {path.parent}, with / between folders; correct the line or add the file",
    )
