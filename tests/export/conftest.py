"""Runs shared by several modules: a trained one, an exported one, and copies that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibration.calibrate import calibrate_run
from edge.bundle.manifest import graph_files
from export.cli import export
from export.report import SUSPECTS_FILE
from tests.export.trained import TYPES, trained_run
from tests.support.tiny_run import TinyRun, build_tiny_run
from training.data.run_files import CALIBRATION_FILE, HELD_OUT_FILE, TRAIN_FILE, TrainRecord, read_record

OUTDATED = "outdated"
OUTDATED_FILES = (
    *(CALIBRATION_FILE, HELD_OUT_FILE, SUSPECTS_FILE),
    *graph_files("int8"),
    *graph_files(separate=True),
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten good parts and both types; it is only read."""
    return trained_run(tmp_path_factory.mktemp("trained"), 10, TYPES)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and of its photographs, which a test may change."""
    shutil.copytree(trained.parent / "data", tmp_path / "data")
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    record = read_record(copy, TRAIN_FILE, TrainRecord).model_copy(update={"data": str(tmp_path / "data")})
    (copy / TRAIN_FILE).write_text(record.model_dump_json())
    return copy


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run after `procunit export` with 60 rows, over outdated files of earlier commands; it is only read."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("exported") / "run"))
    for name in OUTDATED_FILES:
        (run / name).write_text(OUTDATED)
    result = CliRunner().invoke(export, [str(run), "--bank-rows", "60"])
    assert result.exception is None, result.output
    return run


@pytest.fixture(scope="session")
def calibrated_tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A tiny run after `procunit calibrate`; it is only read."""
    run = build_tiny_run(tmp_path_factory.mktemp("calibrated"))
    calibrate_run(run.path)
    return run
