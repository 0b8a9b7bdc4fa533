"""A dataset of tiny photographs and the RUN directory that training and export would have made of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edge.bundle.manifest import BANK_KEY, GOOD, PATCHES_GRAPH, graph_files
from tests.support.tiny_bundle import TINY_GEOMETRY, defect_image, good_image, tiny_bank
from tests.support.tiny_graph import FEATURES, write_tiny_graph, write_tiny_patches_graph
from training.data.dataset import Dataset, Photo, dataset_from_folder
from training.data.run_files import (
    BANK_FILE,
    EXPORT_FILE,
    FOLD_BANKS_FILE,
    TRAIN_FILE,
    Difference,
    ExportRecord,
    RunPhoto,
    SplitSide,
    TrainRecord,
    write_record,
)

_PHOTOS_PER_PART = 2
_FOLDS = 2
_GOOD_SIDES: tuple[SplitSide, ...] = ("train", "calibrate", "train", "seed", "calibrate")
_DEFECT_SIDES: tuple[SplitSide, ...] = ("train", "seed", "train")


@dataclass(frozen=True)
class TinyRun:
    """Where the run and its photographs lie."""

    path: Path
    data: Path


def write_tiny_dataset(root: Path, good_parts: int, defect_parts: dict[str, int], first_seed: int = 0) -> None:
    """Photographs of `good/` and each type, two a part, and `parts.csv`; `first_seed` makes another set of parts."""
    rows = []
    for label, part, index, image in _images(good_parts, defect_parts, first_seed):
        (root / label).mkdir(parents=True, exist_ok=True)
        file = f"{label}/{part}-{index}.png"
        cv2.imwrite(str(root / file), image)
        rows.append((file, part))
    with (root / "parts.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "part_id"), *rows])


def build_tiny_run(directory: Path, good_parts: int = 20, defect_parts: dict[str, int] | None = None) -> TinyRun:
    """`directory`/data and `directory`/run, as they are before `procunit calibrate`."""
    run = TinyRun(directory / "run", directory / "data")
    write_tiny_dataset(run.data, good_parts, {"scratch": 6, "dent": 6} if defect_parts is None else defect_parts)
    dataset = dataset_from_folder(run.data)
    run.path.mkdir()
    write_tiny_graph(run.path / graph_files()[0], len(dataset.types))
    write_tiny_patches_graph(run.path / PATCHES_GRAPH)
    save_file({BANK_KEY: tiny_bank()}, run.path / BANK_FILE)
    # The tiny bank is of other photographs, so it is without any fold as it is.
    save_file({str(fold): tiny_bank() for fold in range(_FOLDS)}, run.path / FOLD_BANKS_FILE)
    trained = _train_record(dataset)
    write_record(run.path, TRAIN_FILE, trained)
    held_out = dict.fromkeys(p.part_id for p in trained.photos if p.label == GOOD and p.role == "calibrate")
    exported = ExportRecord(
        opset=17,
        separate=False,
        bank_rows=len(tiny_bank()),
        feature_size=FEATURES,
        bank_parts=good_parts,
        fold_of={part_id: number % _FOLDS for number, part_id in enumerate(held_out)},
        parity_frames=0,
        differences={"fp32": Difference(logits=0.0, distances=0.0)},
    )
    write_record(run.path, EXPORT_FILE, exported)
    return run


def _images(
    good_parts: int, defect_parts: dict[str, int], first_seed: int
) -> Iterator[tuple[str, str, int, NDArray[np.uint8]]]:
    for part in range(good_parts):
        for index in range(_PHOTOS_PER_PART):
            yield GOOD, f"g{first_seed + part:03}", index, good_image(first_seed + part * _PHOTOS_PER_PART + index)
    for type_index, label in enumerate(sorted(defect_parts)):
        for part in range(defect_parts[label]):
            for index in range(_PHOTOS_PER_PART):
                seed = first_seed + 10_000 * (type_index + 1) + part * _PHOTOS_PER_PART + index
                yield label, f"{label[0]}{first_seed + part:03}", index, defect_image(seed, type_index)


def _train_record(dataset: Dataset) -> TrainRecord:
    sides = _sides(dataset)
    return TrainRecord(
        data=str(dataset.root),
        dataset_sha256=dataset.sha256,
        product="tiny",
        seed=0,
        backbone="tiny",
        weights="none",
        geometry=TINY_GEOMETRY,
        types=dataset.types,
        photos=tuple(_run_photo(photo, sides[photo.part_id]) for photo in dataset.photos),
        out_of_fold_auc=dict.fromkeys(dataset.types, 0.9),
        packages={"numpy": np.__version__},
        code_version="0.1.0",
    )


def _sides(dataset: Dataset) -> dict[str, SplitSide]:
    sides: dict[str, SplitSide] = {}
    for label in (GOOD, *dataset.types):
        cycle = _GOOD_SIDES if label == GOOD else _DEFECT_SIDES
        parts = dict.fromkeys(photo.part_id for photo in dataset.photos if photo.label == label)
        sides |= {part: cycle[index % len(cycle)] for index, part in enumerate(parts)}
    return sides


def _run_photo(photo: Photo, side: SplitSide) -> RunPhoto:
    return RunPhoto(sha256=photo.sha256, part_id=photo.part_id, label=photo.label, role=side, file=photo.file)
