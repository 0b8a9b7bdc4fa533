"""One training run: folder in, RUN directory out, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import torch
from rich.console import Console

from edge.dataset import Dataset, Photo, dataset_from_path
from edge.errors import ProcunitError
from edge.manifest import NAME_PATTERN
from edge.preprocess import Geometry
from edge.runfiles import TRAIN_FILE, RunPhoto, TrainRecord, write_record
from edge.sealing import new_directory
from training.features import checked_geometry, lessons_from_photos
from training.head import discriminants, head_from_discriminants
from training.model import InspectionModel, save_checkpoint
from training.split import Split, split_by_part
from training.validation import PartAuc, auc_by_part, blend_from_scores, out_of_fold
from training.weights import TrunkWeights, trunk_weights

_PACKAGES = ("torch", "timm", "numpy")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What a person asks of a run; `weights` is a file with the backbone's weights, None for the pretrained ones."""

    data: Path
    run: Path
    backbone: str
    weights: Path | None
    product: str | None
    seed: int
    input_px: int
    force: bool


@dataclass(frozen=True)
class Trained:
    """The record as written, the split, and each type's accuracy on parts left out (None where it cannot be told)."""

    record: TrainRecord
    split: Split
    accuracy: Mapping[str, PartAuc | None]


def train(settings: TrainSettings, console: Console) -> Trained:
    """Check everything, learn, and write the RUN directory.

    Raises:
        ProcunitError: the folder, the weights or the place for the run is not usable; nothing is written then.
    """
    check_place(settings.run, force=settings.force)
    dataset = dataset_from_path(settings.data)
    product = checked_names(settings.product or dataset.root.resolve().name, dataset.types)
    geometry = checked_geometry(dataset, settings.input_px, console)
    weights = trunk_weights(settings.backbone, settings.weights)
    if weights.warning:
        console.print(f"[yellow]Warning:[/] {weights.warning}")
    split = split_by_part(dataset.photos, settings.seed)
    taught = [photo for photo in dataset.photos if split.roles[photo.part_id] == "train"]
    model = InspectionModel(weights.backbone, len(dataset.types), geometry.channels)
    model.trunk.load_state_dict(weights.state)
    accuracy = _teach(model, dataset.types, taught, geometry, settings.seed, console) if dataset.types else {}
    record = _record(settings, product, dataset, geometry, weights, split, accuracy)
    with new_directory(settings.run, replace=True) as partial:
        save_checkpoint(model, partial)
        write_record(partial, TRAIN_FILE, record)
    return Trained(record, split, accuracy)


def check_place(run: Path, *, force: bool) -> None:
    """Refuse a place that holds something else, or an earlier run without `force`.

    Raises:
        ProcunitError: with what to do instead.
    """
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return
    if not (run / TRAIN_FILE).is_file():
        raise ProcunitError("exists and is no earlier run", where=str(run), remedy="Name another place by --out")
    if not force:
        raise ProcunitError(
            "holds an earlier run", where=str(run), remedy="Replace it by --force or name another place"
        )


def checked_names(product: str, types: Sequence[str]) -> str:
    """The product's name, once it and the types' can stand in a bundle.

    Raises:
        ProcunitError: a name is empty, too long or has other characters than letters, digits and ` _.-`.
    """
    for name in (product, *types):
        if not re.fullmatch(NAME_PATTERN, name):
            raise ProcunitError(
                f"the name {name!r} cannot be used",
                remedy="Use letters, digits, spaces, `_`, `.` and `-`, at most 64; rename the folder or give --product",
            )
    return product


def _teach(
    model: InspectionModel,
    types: Sequence[str],
    photos: Sequence[Photo],
    geometry: Geometry,
    seed: int,
    console: Console,
) -> dict[str, PartAuc | None]:
    """Fit the model's head; the accuracy of each type comes from heads that had not seen the part."""
    lessons = lessons_from_photos(model, photos, geometry, console)
    unseen = out_of_fold(lessons, types, seed, console)
    if not unseen.clean.weight:
        raise ProcunitError("the masks leave nothing of any photograph", remedy="Add photographs of good parts")
    blend = blend_from_scores(unseen.scores, lessons, types)
    model.head = head_from_discriminants(discriminants(lessons, types, unseen.clean), blend)
    scores = torch.sigmoid(blend.logits(unseen.scores))
    return {name: auc_by_part(scores[:, i].tolist(), lessons, name, seed) for i, name in enumerate(types)}


def _record(
    settings: TrainSettings,
    product: str,
    dataset: Dataset,
    geometry: Geometry,
    weights: TrunkWeights,
    split: Split,
    accuracy: Mapping[str, PartAuc | None],
) -> TrainRecord:
    photos = tuple(
        RunPhoto(
            sha256=photo.sha256,
            part_id=photo.part_id,
            label=photo.label,
            role=split.roles[photo.part_id],
            file=photo.file,
            mask=photo.mask.relative_to(dataset.root).as_posix() if photo.mask else None,
        )
        for photo in dataset.photos
    )
    return TrainRecord(
        data=str(dataset.root.resolve()),
        dataset_sha256=dataset.sha256,
        product=product,
        seed=settings.seed,
        backbone=weights.backbone,
        weights=weights.source,
        geometry=geometry,
        types=dataset.types,
        photos=photos,
        out_of_fold_auc={name: found.auc for name, found in accuracy.items() if found is not None},
        packages={**{name: version(name) for name in _PACKAGES}, "opencv": cv2.__version__},
        code_version=version("procunit-edge"),
    )
