"""Runs shared by several modules: a trained one, an exported one, and copies that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.cli import export
from tests.export.trained import TYPES, trained_run
from training.data.run_files import TRAIN_FILE, TrainRecord, read_record


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
    """The run after `procunit export` with 60 rows; it is only read."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("exported") / "run"))
    result = CliRunner().invoke(export, [str(run), "--bank-rows", "60"])
    assert result.exception is None, result.output
    return run
