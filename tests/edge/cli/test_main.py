"""The command `procunit`: its groups, and its errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from edge.cli.main import RoomGroup, root


def test_a_command_whose_packages_are_missing_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.cli", None)
    result = CliRunner().invoke(root, ["train", "--data", "x"])
    assert isinstance(result.exception, Exception)
    assert "procunit-edge[offline]" in str(result.exception)
    assert "procunit-edge[offline]" in CliRunner().invoke(root, ["--help"]).output


def test_an_unknown_command_exits_with_two() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", "polish"], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 2
    assert "polish" in finished.stderr


def test_a_procunit_error_is_one_line_without_a_traceback() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", "check-config", "/nonexistent.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 2
    assert "nonexistent.yaml" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_groups_list_their_commands() -> None:
    result = CliRunner().invoke(root, ["bundle"])
    assert "verify" in result.output
    assert isinstance(root, RoomGroup)
