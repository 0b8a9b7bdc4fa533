"""The files of a RUN directory, which connect the offline stages: train -> export -> calibrate -> bundle build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.bundle.manifest import KnownPhoto, Precision, graph_files
from edge.bundle.records import CalibrationRecord
from edge.errors import ProcunitError, first_problem
from edge.geometry import Geometry
from edge.record import Record
from edge.system.files import bytes_from_file, write_whole
from edge.system.tensor_file import tensors_from_file

TRAIN_FILE, EXPORT_FILE, CALIBRATION_FILE = "train.json", "export.json", "calibration.json"
CHECKPOINT_FILE, BANK_FILE = "checkpoint.safetensors", "bank.safetensors"
FOLD_BANKS_FILE, HELD_OUT_FILE = "fold-banks.safetensors", "held-out.safetensors"
DEMO_KEY_FILE, DEMO_PUBLIC_KEY_FILE = "demo-key.pem", "demo-key.pub"

MAX_RECORD_BYTES = 256 << 20

SplitSide = Literal["train", "calibrate", "seed"]


class RunPhoto(KnownPhoto):
    """A photograph of the dataset; `role` is the side of the split that its part is on."""

    file: str
    mask: str | None = None


class TrainRecord(Record):
    """What `procunit train` did: `data` is the dataset's folder, `types` are in the order of the head's outputs.

    `fine_tuned` is true if the network's last stages were trained, too.
    """

    data: str
    dataset_sha256: str
    product: str
    seed: int
    backbone: str
    weights: str
    geometry: Geometry
    types: tuple[str, ...]
    fine_tuned: bool = False
    photos: tuple[RunPhoto, ...]
    out_of_fold_auc: dict[str, float]
    packages: dict[str, str]
    code_version: str


class Difference(Record):
    """The largest difference from torch in FP32 of any logit and of any distance, maps included."""

    logits: float
    distances: float


class ExportRecord(Record):
    """What `procunit export` made, and how far the graphs of each precision are from torch.

    `fold_of` has the fold of each held-out good part; a part is scored with the bank made without its fold.
    """

    separate: bool
    opset: int
    bank_rows: int
    feature_size: int
    bank_parts: int
    fold_of: dict[str, int]
    parity_frames: int
    differences: dict[Precision, Difference]


RecordT = TypeVar("RecordT", TrainRecord, ExportRecord, CalibrationRecord)

_MADE_BY = {TRAIN_FILE: "procunit train", EXPORT_FILE: "procunit export", CALIBRATION_FILE: "procunit calibrate"}


def read_record(run: Path, name: str, record: type[RecordT]) -> RecordT:
    """A stage's record.

    Raises:
        ProcunitError: the stage has not run yet, or the file is damaged; the message names the command to run.
    """
    path = run / name
    if not path.is_file():
        raise ProcunitError("this stage has not run yet", where=str(path), remedy=f"Run `{_MADE_BY[name]}` first")
    try:
        return record.model_validate_json(bytes_from_file(path, MAX_RECORD_BYTES))
    except ValidationError as error:
        raise ProcunitError(first_problem(error), where=str(path), remedy=f"Run `{_MADE_BY[name]}` again") from error


def graphs_of_run(run: Path, exported: ExportRecord, precision: Precision = "fp32") -> tuple[Path, ...]:
    """The ONNX graphs of one precision that together compute the contract's outputs."""
    return tuple(run / name for name in graph_files(precision, separate=exported.separate))


def fold_banks_of_run(run: Path) -> tuple[NDArray[np.float32], ...]:
    """By fold, the banks made without that fold of the held-out good parts; see `ExportRecord.fold_of`.

    Raises:
        ProcunitError: the file cannot be read.
    """
    tensors = tensors_from_file(run / FOLD_BANKS_FILE)
    return tuple(np.asarray(tensors[str(fold)], np.float32) for fold in range(len(tensors)))


def write_record(run: Path, name: str, record: TrainRecord | ExportRecord | CalibrationRecord) -> None:
    """Write a stage's record atomically."""
    write_whole(run / name, (record.model_dump_json(indent=1) + "\n").encode())
