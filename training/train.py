"""One training run: reads a data folder and writes a RUN directory atomically."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from edge.bundle.manifest import GOOD, NAME_PATTERN
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.system.files import new_directory
from training.augment import beyond_good_warning
from training.checkpoint import save_checkpoint
from training.data.dataset import Dataset, Photo, dataset_from_path
from training.data.dataset_yaml import dataset_file_from_folder
from training.data.run_files import TRAIN_FILE, RunPhoto, TrainRecord, write_record
from training.features import checked_geometry
from training.findings import Findings
from training.fit import Plan, fit_model
from training.model import InspectionModel, device_to_learn_on
from training.near_duplicates import near_duplicates, write_suggested
from training.report.contact_sheet import contact_sheet, png_from_sheet
from training.report.run_report import REPORT_FILE, training_report_html
from training.seeded import read_seeded, write_seeded
from training.split import Split, split_by_part
from training.weights import TrunkWeights, trunk_weights

SHEET_FILE = "contact-sheet.png"
_PACKAGES = ("torch", "timm", "numpy")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The options of a run.

    `weights` is a file with the backbone's weights, None for the pretrained ones; `seeded` is an earlier run or its
    seeded set, which is kept out of training again.
    """

    data: Path
    run: Path
    backbone: str
    weights: Path | None
    product: str | None
    seeded: Path | None
    plan: Plan
    seed: int
    input_px: int
    force: bool


@dataclass(frozen=True)
class Trained:
    """The record as written and the findings, which are empty without a defect type."""

    record: TrainRecord
    findings: Findings


def train(settings: TrainSettings, console: Console) -> Trained:
    """Check all inputs, train, and write the RUN directory.

    Raises:
        ProcunitError: the data, the weights or the run's path is not usable; then nothing is written.
    """
    check_run_directory(settings.run, force=settings.force)
    dataset = dataset_from_path(settings.data)
    file = dataset_file_from_folder(dataset.root)
    file.check_labels({GOOD, *dataset.types})
    product = checked_names(settings.product or dataset.root.resolve().name, dataset.types)
    earlier = None if settings.seeded is None else read_seeded(settings.seeded)
    split = split_by_part(dataset.photos, settings.seed, earlier)
    geometry = checked_geometry(dataset, settings.input_px, console)
    weights = trunk_weights(settings.backbone, settings.weights)
    duplicates = near_duplicates(dataset, console)
    augmentation_warning = beyond_good_warning(file, dataset.types, geometry) if settings.plan.fine_tune else ""
    notes = [note for note in (weights.warning, duplicates.warning(), augmentation_warning) if note]
    for note in notes:
        console.print(f"Warning: {note}", style="yellow", markup=False)
    model = InspectionModel(weights.backbone, len(dataset.types), geometry.channels)
    model.trunk.load_state_dict(weights.state)
    model.to(device_to_learn_on())
    photos = [photo for photo in dataset.photos if split.sides[photo.part_id] == "train"]
    kept = settings.run.with_name(f".{settings.run.name}.folds")
    findings = _empty_findings(photos)
    if dataset.types:
        findings = fit_model(model, dataset.types, photos, geometry, file, settings.plan, settings.seed, kept, console)
    model.cpu()
    findings = replace(findings, notes=(*notes, *split.notes, *findings.notes))
    record = _record(settings, product, dataset, geometry, weights, split, findings)
    sheet_png = png_from_sheet(contact_sheet(photos, file, geometry, settings.seed))
    with new_directory(settings.run, replace=True) as partial:
        save_checkpoint(model, partial, record)
        write_seeded(partial, record.photos, earlier)
        (partial / SHEET_FILE).write_bytes(sheet_png)
        if duplicates.pairs:
            write_suggested(partial, dataset, duplicates)
        (partial / REPORT_FILE).write_text(training_report_html(record, findings, sheet_png, console), "utf-8")
        write_record(partial, TRAIN_FILE, record)
    shutil.rmtree(kept, ignore_errors=True)
    return Trained(record, findings)


def _empty_findings(photos: Sequence[Photo]) -> Findings:
    """The findings of a run without defect types."""
    empty = np.zeros((len(photos), 0))
    return Findings((), tuple(photos), empty, {}, {}, (), lambda _: np.zeros((0, 0, 0, 0), np.float32))


def check_run_directory(run: Path, *, force: bool) -> None:
    """Refuse a path that holds something else, or an earlier run without `force`.

    Raises:
        ProcunitError: the path is refused.
    """
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return
    if not (run / TRAIN_FILE).is_file():
        raise ProcunitError("exists and is not an earlier run", where=str(run), remedy="Give another path with --out")
    if not force:
        raise ProcunitError(
            "holds an earlier run", where=str(run), remedy="Replace it with --force, or give another path with --out"
        )


def checked_names(product: str, types: Sequence[str]) -> str:
    """The product's name, after checking that it and the types' names are valid in a bundle.

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


def _record(
    settings: TrainSettings,
    product: str,
    dataset: Dataset,
    geometry: Geometry,
    weights: TrunkWeights,
    split: Split,
    findings: Findings,
) -> TrainRecord:
    photos = tuple(
        RunPhoto(
            sha256=photo.sha256,
            part_id=photo.part_id,
            label=photo.label,
            role=split.sides[photo.part_id],
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
        fine_tuned=settings.plan.fine_tune and bool(dataset.types),
        photos=photos,
        out_of_fold_auc={name: found.auc for name, found in findings.accuracy.items() if found is not None},
        packages={**{name: version(name) for name in _PACKAGES}, "opencv": cv2.__version__},
        code_version=version("procunit-edge"),
    )
