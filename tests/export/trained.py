"""Runs made by `procunit train` from small photographs with timm's smallest EfficientNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from tests.support.photographs import BACKBONE, write_photographs, write_weights
from training.cli import train

TYPES = {"spot": 7, "line": 7}
INPUT_PX = 96


def trained_run(directory: Path, good_parts: int, defect_parts: Mapping[str, int]) -> Path:
    """Train into `directory`/run with photographs in `directory`/data; returns the run."""
    data = write_photographs(directory / "data", good_parts, defect_parts)
    weights = write_weights(directory / "w.safetensors")
    arguments = ["--data", str(data), "--out", str(directory / "run"), "--weights", str(weights)]
    result = CliRunner().invoke(train, [*arguments, "--backbone", BACKBONE, "--input-px", str(INPUT_PX)])
    assert result.exception is None, result.output
    return directory / "run"
