"""`procunit export`: a trained RUN gets a graph and a bank that fit each other, or keeps what it has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge.bundle import bank_from_file
from edge.dataset import read_image
from edge.engine_ort import OrtEngine
from edge.errors import ProcunitError
from edge.pipeline import score_pixels
from edge.runfiles import (
    BANK_FILE,
    CALIBRATION_FILE,
    CHECKPOINT_FILE,
    EXPORT_FILE,
    MODEL_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    read_record,
)
from export.cli import export
from export.export import PARITY_FRAMES, bank_photos, parity_photos
from tests.photographs import BACKBONE, write_photographs, write_weights
from training.cli import train

TYPES = {"spot": 7, "line": 7}
RUN_FILES = sorted((TRAIN_FILE, CHECKPOINT_FILE, EXPORT_FILE, MODEL_FILE, BANK_FILE))


def _trained(
    directory: Path, good_parts: int, defect_parts: Mapping[str, int], *options: str, backbone: str = BACKBONE
) -> Path:
    data = write_photographs(directory / "data", good_parts, defect_parts)
    weights = write_weights(directory / "w.safetensors", backbone)
    arguments = ["--data", str(data), "--out", str(directory / "run"), "--weights", str(weights)]
    result = CliRunner().invoke(train, [*arguments, "--backbone", backbone, "--input-px", "96", *options])
    assert result.exception is None, result.output
    return directory / "run"


def _export(run: Path, *options: str) -> Result:
    return CliRunner().invoke(export, [str(run), *options])


def _exported(run: Path, *options: str) -> ExportRecord:
    result = _export(run, *options)
    assert result.exception is None, result.output
    assert sorted(path.name for path in run.iterdir()) == RUN_FILES, "nothing half-written stays"
    return read_record(run, EXPORT_FILE, ExportRecord)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(tmp_path_factory.mktemp("trained"), 10, TYPES)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run with photographs of its own, which a test may spoil."""
    shutil.copytree(trained.parent / "data", tmp_path / "data")
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    record = read_record(copy, TRAIN_FILE, TrainRecord).model_copy(update={"data": str(tmp_path / "data")})
    (copy / TRAIN_FILE).write_text(record.model_dump_json())
    return copy


def test_graph_and_bank_work_together_on_a_photograph(run: Path) -> None:
    record = _exported(run, "--bank-rows", "40")
    assert (record.bank_rows, record.bank_parts) == (40, 5)
    assert record.parity_frames >= 8
    assert max(record.worst_logit_difference, record.worst_anomaly_difference) <= 1e-3
    trained = read_record(run, TRAIN_FILE, TrainRecord)
    bank = bank_from_file(run / BANK_FILE)
    engine = OrtEngine([run / MODEL_FILE], bank, threads=1)
    kinds = {
        label: score_pixels(read_image(Path(trained.data) / f"{label}/00-0.png"), trained.geometry, engine)[0]
        for label in ("good", *trained.types)
    }
    assert kinds["line"].type_scores[0] > kinds["good"].type_scores[0]
    assert kinds["spot"].type_scores[1] > kinds["good"].type_scores[1]
    assert kinds["spot"].anomaly_score > kinds["good"].anomaly_score


def test_the_same_run_gives_the_same_bank(run: Path) -> None:
    _exported(run, "--bank-rows", "30")
    first = (run / BANK_FILE).read_bytes()
    _exported(run, "--bank-rows", "30")
    assert (run / BANK_FILE).read_bytes() == first


def test_good_parts_alone_make_a_graph_without_a_head(tmp_path: Path) -> None:
    run = _trained(tmp_path, 4, {})
    assert _exported(run).worst_logit_difference == 0.0
    bank = bank_from_file(run / BANK_FILE)
    outputs = OrtEngine([run / MODEL_FILE], bank).infer(np.zeros((1, 96, 96, 1), np.uint8))
    assert outputs.logits.shape == (1, 0)


def test_without_good_parts_the_bank_is_what_masks_leave_of_defect_parts(tmp_path: Path) -> None:
    run = _trained(tmp_path, 0, {"spot": 3})
    record = _exported(run)
    photos = bank_photos(read_record(run, TRAIN_FILE, TrainRecord))
    assert {photo.label for photo in photos} == {"spot"}
    assert record.bank_rows < len(photos) * 36, "covered patches are left out"


def test_the_bank_and_the_comparison_use_learned_photographs_only(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    assert {(photo.role, photo.label) for photo in bank_photos(record)} == {("train", "good")}
    compared = parity_photos(record)
    assert {photo.role for photo in compared} == {"train"}
    assert {photo.label for photo in compared} == {"good", *record.types}
    assert 8 <= len(compared) <= PARITY_FRAMES


def test_an_earlier_calibration_does_not_outlive_the_graph_it_was_made_with(run: Path) -> None:
    (run / CALIBRATION_FILE).write_text("{}")
    _exported(run)


def test_masks_that_cover_everything_leave_no_bank(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    defects = tuple(photo for photo in record.photos if photo.label != "good")
    for photo in defects:
        cv2.imwrite(str(Path(record.data) / str(photo.mask)), np.full((56, 80), 255, np.uint8))
    (run / TRAIN_FILE).write_text(record.model_copy(update={"photos": defects}).model_dump_json())
    assert "masks leave nothing" in str(_export(run).exception)


def test_a_photograph_that_changed_is_named_and_nothing_is_written(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    changed = Path(record.data) / bank_photos(record)[0].file
    cv2.imwrite(str(changed), read_image(changed) + np.uint8(1))
    result = _export(run)
    assert isinstance(result.exception, ProcunitError)
    assert str(changed) in str(result.exception)
    assert "changed since the training" in str(result.exception)
    assert sorted(path.name for path in run.iterdir()) == sorted((TRAIN_FILE, CHECKPOINT_FILE))


def test_a_missing_checkpoint_or_run_says_what_to_run(run: Path) -> None:
    (run / CHECKPOINT_FILE).write_bytes(b"truncated")
    assert "procunit train" in str(_export(run).exception)
    (run / TRAIN_FILE).unlink()
    assert "procunit train" in str(_export(run).exception)


def test_efficientnet_b3_is_equal_to_torch(tmp_path: Path) -> None:
    run = _trained(tmp_path, 6, {"spot": 3}, backbone="efficientnet_b3")
    record = _exported(run)
    assert read_record(run, TRAIN_FILE, TrainRecord).backbone == "efficientnet_b3"
    assert record.feature_size == 184
    assert max(record.worst_logit_difference, record.worst_anomaly_difference) <= 1e-3
