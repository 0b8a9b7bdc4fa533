"""`procunit calibrate` on a run of tiny photographs, through ONNX Runtime and the on-device path."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from calibration.calibrate import UNCALIBRATED, calibrate_run, limits_from_scores
from calibration.cli import calibrate
from edge.bundle.manifest import graph_files
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.image_file import read_image
from tests.support.tiny_bundle import good_image, tiny_bank
from tests.support.tiny_run import build_tiny_run
from training.data.run_files import (
    CALIBRATION_FILE,
    EXPORT_FILE,
    FOLD_BANKS_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    read_record,
)


def test_held_out_good_parts_set_the_limits_and_pass_them(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    record = calibrate_run(run.path)
    assert read_record(run.path, CALIBRATION_FILE, CalibrationRecord) == record
    assert record.budget is not None
    assert record.budget.good_parts == 8
    assert record.anomaly is not None
    assert set(record.types) == {"dent", "scratch"}
    labels = [score.label for score in record.scores]
    assert labels.count("good") == 16
    assert labels.count("scratch") == labels.count("dent") == 8
    for score in record.scores:
        by_type = dict(zip(("dent", "scratch"), score.type_scores, strict=True))
        flagged = {name for name, limit in record.types.items() if by_type[name] >= limit.threshold}
        assert (score.label in flagged) == (score.label != "good")
        assert (score.anomaly_score >= record.anomaly.threshold) == (score.label != "good")


def test_a_held_out_part_is_scored_by_the_bank_made_without_its_fold_and_a_defect_by_the_whole(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    folds = {"0": tiny_bank()[::2], "1": tiny_bank()[1::7]}
    save_file({name: np.ascontiguousarray(rows) for name, rows in folds.items()}, run.path / FOLD_BANKS_FILE)
    record = calibrate_run(run.path)
    trained = read_record(run.path, TRAIN_FILE, TrainRecord)
    exported = read_record(run.path, EXPORT_FILE, ExportRecord)
    graphs = [run.path / name for name in graph_files()]
    engines = {name: OrtEngine(graphs, rows, threads=1) for name, rows in {**folds, "whole": tiny_bank()}.items()}
    files = {photo.sha256: run.data / photo.file for photo in trained.photos}
    distinguished = 0
    for scores in record.scores:
        fold = str(exported.fold_of[scores.part_id]) if scores.label == "good" else "whole"
        found = {
            name: score_pixels(read_image(files[scores.sha256]), trained.geometry, engine)[0].anomaly_score
            for name, engine in engines.items()
        }
        assert scores.anomaly_score == pytest.approx(found[fold], rel=1e-6)
        distinguished += all(abs(found[other] - found[fold]) > 1e-4 for other in found if other != fold)
    assert distinguished > 0, "the banks differ enough to identify the one in use"
    scored = {scores.part_id for scores in record.scores}
    assert [sum(exported.fold_of.get(part) == place for part in scored) for place in (0, 1)] == [4, 4]


def test_the_imaging_baseline_is_that_of_good_photographs(tmp_path: Path) -> None:
    imaging = calibrate_run(build_tiny_run(tmp_path).path).imaging
    assert imaging is not None
    assert imaging.brightness == pytest.approx(good_image(0).mean(), abs=1)
    assert imaging.sharpness == pytest.approx(cv2.Laplacian(good_image(0), cv2.CV_64F).var(), rel=0.1)


def test_without_good_parts_thresholds_are_the_middle_with_a_note(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path, good_parts=0)
    result = CliRunner().invoke(calibrate, [str(run.path)])
    assert "no good parts were held out" in result.output
    record = read_record(run.path, CALIBRATION_FILE, CalibrationRecord)
    assert record.types == {"dent": UNCALIBRATED, "scratch": UNCALIBRATED}
    assert record.anomaly is None
    assert record.budget is None
    assert record.imaging is None


def test_good_parts_alone_calibrate_the_anomaly_score(tmp_path: Path) -> None:
    record = calibrate_run(build_tiny_run(tmp_path, defect_parts={}).path)
    assert record.types == {}
    assert record.anomaly is not None
    assert record.anomaly.threshold > max(score.anomaly_score for score in record.scores)


def test_the_command_prints_the_requested_and_the_supported_budget_and_the_parts_needed(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    output = CliRunner().invoke(calibrate, [str(run.path), "--budget", "0.01"]).output
    assert "asked: at most 1.00%" in output
    assert "at most 31.23% of good parts flagged by all scores together, with 95% confidence" in output
    assert "0 of 8 held-out good parts" in output
    assert "299 held-out good parts are needed, there are 8" in output


def test_a_saturated_score_is_counted_as_the_device_counts_it() -> None:
    saturated = [
        PhotoScores(sha256="", part_id=str(part), label="good", type_scores=(1.0,), anomaly_score=1.0)
        for part in range(4)
    ]
    types, _, budget = limits_from_scores(saturated, ("scratch",), None)
    assert types["scratch"].threshold <= 1.0
    assert budget.flagged_parts == 4
    assert budget.false_alarm_rate == 1.0


def test_a_changed_photograph_is_refused(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    cv2.imwrite(str(run.data / "good" / "g001-0.png"), np.full((64, 64), 9, np.uint8))
    with pytest.raises(ProcunitError, match=r"g001-0\.png: missing, or changed since training"):
        calibrate_run(run.path)
    assert not (run.path / CALIBRATION_FILE).exists()


def test_export_comes_first(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    (run.path / EXPORT_FILE).unlink()
    with pytest.raises(ProcunitError, match="procunit export"):
        calibrate_run(run.path)


def test_a_missing_bank_is_named(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    (run.path / "bank.safetensors").unlink()
    with pytest.raises(ProcunitError, match=r"bank\.safetensors"):
        calibrate_run(run.path)


def test_neither_a_type_nor_a_held_out_good_part_is_refused(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path, good_parts=1, defect_parts={})
    with pytest.raises(ProcunitError, match="no score to calibrate"):
        calibrate_run(run.path)
