"""Every command of every room: there, with help and examples."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from edge.cli.main import root


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
        "augment-preview",
        "bank add",
        "bank show",
        "bank undo",
        "bundle build",
        "bundle show",
        "bundle verify",
        "calibrate",
        "check-config",
        "command sign",
        "engine bare",
        "engine bench",
        "engine build",
        "engine compare",
        "evaluate",
        "export",
        "label",
        "mqtt check",
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
