"""`procunit export`: a trained RUN gets a graph and a matching bank, or stays unchanged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from calibration.calibrate import calibrate_run
from edge.bundle.manifest import PATCHES_GRAPH, PRECISIONS, graph_files
from edge.bundle.reader import bank_from_file
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.image_file import read_image
from export.bank.memory_bank import bank_photos
from export.bundle_from_run import bundle_from_run
from export.cli import export
from export.export import PARITY_FRAMES, training_photos
from export.signing import demo_key_from_run
from tests.export.trained import trained_run
from training.data.run_files import (
    BANK_FILE,
    CHECKPOINT_FILE,
    EXPORT_FILE,
    FOLD_BANKS_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    read_record,
)
from training.report.run_report import REPORT_FILE
from training.seeded import SEEDED_FILE
from training.train import SHEET_FILE

FUSED = (*graph_files(), *graph_files("fp16"))


def _export(run: Path, *options: str) -> Result:
    return CliRunner().invoke(export, [str(run), *options])


def _exported(run: Path, *options: str, graphs: tuple[str, ...] = FUSED) -> ExportRecord:
    result = _export(run, *options)
    assert result.exception is None, result.output
    _check_files(run, graphs)
    return read_record(run, EXPORT_FILE, ExportRecord)


def _check_files(run: Path, graphs: tuple[str, ...]) -> None:
    of_training = {TRAIN_FILE, CHECKPOINT_FILE, REPORT_FILE, SEEDED_FILE, SHEET_FILE}
    written = of_training | {EXPORT_FILE, BANK_FILE, FOLD_BANKS_FILE, PATCHES_GRAPH, *graphs}
    assert {path.name for path in run.iterdir()} == written, "no partial file is left"


def test_graph_and_bank_work_together_on_a_photograph(exported: Path) -> None:
    record = read_record(exported, EXPORT_FILE, ExportRecord)
    assert (record.bank_rows, record.bank_parts) == (60, 8)
    assert sorted(record.fold_of.values()) == [0, 1, 2]
    assert record.parity_frames >= 8
    assert max(record.differences["fp32"].logits, record.differences["fp32"].distances) <= 1e-3
    assert 1e-6 < record.differences["fp16"].distances < 0.05
    trained = read_record(exported, TRAIN_FILE, TrainRecord)
    bank = bank_from_file(exported / BANK_FILE)
    engine = OrtEngine([exported / name for name in graph_files()], bank, threads=1)
    kinds = {
        label: score_pixels(read_image(Path(trained.data) / f"{label}/00-0.png"), trained.geometry, engine)[0]
        for label in ("good", *trained.types)
    }
    assert kinds["line"].type_scores[0] > kinds["good"].type_scores[0]
    assert kinds["spot"].type_scores[1] > kinds["good"].type_scores[1]
    assert kinds["spot"].anomaly_score > kinds["good"].anomaly_score


@pytest.mark.slow
def test_good_parts_only_make_a_graph_without_a_head(tmp_path: Path) -> None:
    run = trained_run(tmp_path, 4, {})
    assert _exported(run).differences["fp32"].logits == 0.0
    bank = bank_from_file(run / BANK_FILE)
    outputs = OrtEngine([run / name for name in graph_files()], bank).infer(np.zeros((1, 96, 96, 1), np.uint8))
    assert outputs.logits.shape == (1, 0)


@pytest.mark.slow
def test_without_good_parts_the_bank_uses_defect_parts_outside_their_masks(tmp_path: Path) -> None:
    run = trained_run(tmp_path, 0, {"spot": 3})
    record = _exported(run)
    photos = bank_photos(read_record(run, TRAIN_FILE, TrainRecord))
    assert {photo.label for photo in photos} == {"spot"}
    assert record.bank_rows < len(photos) * 36, "patches under the mask are excluded"


def test_the_comparison_uses_training_photographs_only(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    compared = training_photos(record, PARITY_FRAMES)
    assert {photo.role for photo in compared} == {"train"}
    assert {photo.label for photo in compared} == {"good", *record.types}
    assert 8 <= len(compared) <= PARITY_FRAMES


@pytest.mark.slow
def test_separate_graphs_can_be_calibrated_and_bundled(run: Path) -> None:
    both = (*graph_files(separate=True), *graph_files("fp16", separate=True), *graph_files("int8", separate=True))
    record = _exported(run, "--separate", "--int8", "--bank-rows", "40", graphs=both)
    assert list(record.differences) == ["fp32", "fp16", "int8"]
    assert record.differences["int8"].distances > record.differences["fp16"].distances
    calibrate_run(run)
    bundle = bundle_from_run(run, run.with_name("bundle"), demo_key_from_run(run))
    assert bundle.separate
    assert bundle.precisions == PRECISIONS
    assert check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank())).passed


@pytest.mark.slow
def test_only_fp32_is_exported_if_activations_may_overflow_fp16(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.export.MAX_ACTIVATION", 1e-3)
    record = _exported(run, "--int8", graphs=graph_files())
    assert list(record.differences) == ["fp32"]


def test_without_types_there_are_no_separate_graphs(tmp_path: Path) -> None:
    run = trained_run(tmp_path, 4, {})
    result = _export(run, "--separate")
    assert isinstance(result.exception, ProcunitError)
    assert "without --separate" in str(result.exception)
    assert sorted(path.name for path in run.iterdir()) == sorted(
        (TRAIN_FILE, CHECKPOINT_FILE, REPORT_FILE, SEEDED_FILE, SHEET_FILE)
    )


def test_an_earlier_calibration_and_other_graphs_are_removed(exported: Path) -> None:
    _check_files(exported, FUSED)


def test_masks_that_cover_everything_are_an_error(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    defects = tuple(photo for photo in record.photos if photo.label != "good")
    for photo in defects:
        cv2.imwrite(str(Path(record.data) / str(photo.mask)), np.full((56, 80), 255, np.uint8))
    (run / TRAIN_FILE).write_text(record.model_copy(update={"photos": defects}).model_dump_json())
    assert "masks cover every patch" in str(_export(run).exception)


def test_a_changed_photograph_is_named_and_nothing_is_written(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    changed = Path(record.data) / bank_photos(record)[0].file
    cv2.imwrite(str(changed), read_image(changed) + np.uint8(1))
    result = _export(run)
    assert isinstance(result.exception, ProcunitError)
    assert str(changed) in str(result.exception)
    assert "changed since the training" in str(result.exception)
    assert sorted(path.name for path in run.iterdir()) == sorted(
        (TRAIN_FILE, CHECKPOINT_FILE, REPORT_FILE, SEEDED_FILE, SHEET_FILE)
    )


def test_a_missing_checkpoint_or_run_names_the_command_to_run(run: Path) -> None:
    (run / CHECKPOINT_FILE).write_bytes(b"truncated")
    assert "procunit train" in str(_export(run).exception)
    (run / TRAIN_FILE).unlink()
    assert "procunit train" in str(_export(run).exception)
