"""The one command: help for everything, and errors that a person can act on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from edge.cli import RoomGroup, root


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command


ALL = dict(commands(root))


def test_the_commands_are_these() -> None:
    assert {" ".join(path) for path in ALL} == {
        "bundle build",
        "bundle show",
        "bundle verify",
        "calibrate",
        "check-config",
        "evaluate",
        "export",
        "run",
        "seed run",
        "train",
        "watch",
    }


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_examples_and_says_what_each_option_does(path: tuple[str, ...]) -> None:
    command = ALL[path]
    result = CliRunner().invoke(root, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "not installed" not in result.output
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.name} has no help"


def test_a_command_whose_extra_is_missing_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.cli", None)
    result = CliRunner().invoke(root, ["train", "--data", "x"])
    assert isinstance(result.exception, Exception)
    assert "procunit-edge[offline]" in str(result.exception)
    assert "procunit-edge[offline]" in CliRunner().invoke(root, ["--help"]).output


def test_an_unknown_command_exits_with_two() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "edge.cli", "polish"], capture_output=True, text=True, timeout=20, check=False
    )
    assert finished.returncode == 2
    assert "polish" in finished.stderr


def test_a_persons_error_is_one_line_without_a_traceback() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "edge.cli", "check-config", "/nonexistent.yaml"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert finished.returncode == 2
    assert "nonexistent.yaml" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_groups_list_their_commands() -> None:
    result = CliRunner().invoke(root, ["bundle"])
    assert "verify" in result.output
    assert isinstance(root, RoomGroup)
