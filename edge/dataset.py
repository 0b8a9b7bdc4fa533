"""A labelled folder: `good/`, one folder a defect type, optional `parts.csv` and `masks/TYPE/`.

Read in one place for training, calibration and evaluation. Photographs of one part are not independent, so each carries
its `part_id`; without `parts.csv` every photograph counts as a part of its own.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))  # read once, when OpenCV decodes its first image

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import ProcunitError
from edge.messages import PixelArray
from edge.preprocess import MIN_SIDE_PX

GOOD = "good"
MASKS = "masks"
PARTS_CSV = "parts.csv"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_IMAGE_BYTES = 256 << 20


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
    """The photographs of a folder, sorted by file; `has_parts` tells whether `parts.csv` named the parts."""

    root: Path
    photos: tuple[Photo, ...]
    has_parts: bool

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types, sorted."""
        return tuple(sorted({photo.label for photo in self.photos} - {GOOD}))

    @property
    def sha256(self) -> str:
        """One hash over every photograph's content, label and part."""
        digest = hashlib.sha256()
        for photo in self.photos:
            digest.update(f"{photo.sha256} {photo.label} {photo.part_id}\n".encode())
        return digest.hexdigest()


def dataset_from_folder(root: Path) -> Dataset:
    """Read a labelled folder; images are hashed here and decoded by `read_image` when they are needed.

    Raises:
        ProcunitError: no such folder, an empty class folder, or a `parts.csv` that does not fit.
    """
    if not root.is_dir():
        raise ProcunitError("no such folder", where=str(root), remedy=f"Name a folder of {GOOD}/ and one folder a type")
    parts = _parts(root / PARTS_CSV)
    photos = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name != MASKS and not p.name.startswith(".")):
        images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not images:
            raise ProcunitError(
                "the class folder holds no image",
                where=str(folder),
                remedy=f"Put photographs ({', '.join(sorted(IMAGE_SUFFIXES))}) in it or remove it",
            )
        for image in images:
            file = image.relative_to(root).as_posix()
            sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
            part_id = parts.get(file, file) if parts is not None else file
            photos.append(Photo(image, file, sha256, part_id, folder.name, _mask(root, folder.name, image)))
    if not photos:
        raise ProcunitError(
            "no class folder here", where=str(root), remedy=f"Put photographs in {GOOD}/ and one folder a type"
        )
    if parts is not None:
        absent = set(parts) - {photo.file for photo in photos}
        if absent:
            raise ProcunitError(f"names {min(absent)}, which is not there", where=str(root / PARTS_CSV))
    return Dataset(root, tuple(photos), parts is not None)


def read_image(path: Path) -> PixelArray:
    """Decode an image file as it was stored: grey, BGR or BGRA, 8 or 16 bits a channel.

    Raises:
        ProcunitError: it cannot be read, is no image, or has a side under 32 px.
    """
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ProcunitError(f"larger than {MAX_IMAGE_BYTES >> 20} MB", where=str(path))
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ProcunitError(
            "not a readable image", where=str(path), remedy="Replace the file or remove it from the folder"
        )
    if min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise ProcunitError(
            f"{pixels.shape[1]} x {pixels.shape[0]} px; the smallest usable side is {MIN_SIDE_PX} px",
            where=str(path),
            remedy="Replace the file or remove it from the folder",
        )
    return cast(PixelArray, pixels)


def read_mask(path: Path, frame_height_px: int, frame_width_px: int) -> NDArray[np.uint8]:
    """A mask [H, W] of the photograph's size, over 127 = defect; another size of the same shape is scaled.

    Raises:
        ProcunitError: not readable, or its shape is not the photograph's.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if mask is None:
        raise ProcunitError("not a readable mask image", where=str(path))
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


def _mask(root: Path, label: str, image: Path) -> Path | None:
    mask = root / MASKS / label / f"{image.stem}.png"
    return mask if mask.is_file() else None


def _parts(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "part_id"} <= set(reader.fieldnames or ()):
                raise ProcunitError("needs the columns file and part_id", where=str(path))
            parts = {}
            for row in reader:
                if not row["file"] or not row["part_id"]:
                    raise ProcunitError(f"line {reader.line_num}: file or part_id is empty", where=str(path))
                parts[row["file"]] = row["part_id"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProcunitError(f"cannot be read: {error}", where=str(path)) from error
    return parts
