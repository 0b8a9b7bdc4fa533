"""The command `procunit`; its subcommands are the entry points of the group `procunit.commands`.

A subcommand is imported only when it is called, so that a device does not need the offline packages.
"""

from __future__ import annotations

import signal
from importlib.metadata import EntryPoint, entry_points

import click

from edge.cli.program import run_program
from edge.errors import ProcunitError

ENTRY_POINT_GROUP = "procunit.commands"

_EXTRA_OF_ROOM = {"training": "offline", "export": "offline", "calibration": "offline", "edge": "ort,opencv"}
_GROUP_HELP = {
    "mqtt": "Find out why results do not reach a broker.",
    "bundle": "Build, show and verify bundles.",
    "engine": "Build, compare and measure engines on this device.",
    "seed": "Run seeded parts and give authority.",
    "command": "Sign commands to a device.",
    "bank": "Grow the memory bank at the line.",
}


class RoomGroup(click.Group):
    """A group whose commands are entry points; `prefix` is "" at the top and "bundle." within `procunit bundle`."""

    def __init__(self, prefix: str, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands and groups at this level."""
        names = (name.removeprefix(self._prefix) for name in _targets() if name.startswith(self._prefix))
        return sorted({name.split(".")[0] for name in names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The imported command; if its packages are missing, a stub whose call names the extra to install."""
        target = _targets().get(self._prefix + cmd_name)
        if target is not None:
            return _load(cmd_name, target)
        if cmd_name in self.list_commands(ctx):
            prefix = f"{self._prefix}{cmd_name}."
            return RoomGroup(prefix, name=cmd_name, help=_GROUP_HELP.get(cmd_name), no_args_is_help=True)
        return None


@click.group(
    cls=RoomGroup,
    prefix="",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
)
@click.version_option(package_name="procunit-edge", prog_name="procunit")
def root() -> None:
    """Inline defect inspection: train, bundle, and run it at the line.

    \b
    procunit train --data parts/ --out run/        train on photographs
    procunit export run/                           one graph with both scorers
    procunit calibrate run/                        thresholds from held-out good parts
    procunit bundle build run/ --out bundle/       sign it
    procunit run --config line.yaml                inspect
    """


def main() -> None:
    """Entry point: prints a `ProcunitError` in one line and exits with 2; Ctrl-C and SIGTERM clean up, then exit 130.

    A handler is set for SIGINT too, as shells start background processes with SIGINT ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    run_program(root, "procunit")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _targets() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(name: str, target: str) -> click.Command:
    room = target.split(".", maxsplit=1)[0]
    try:
        command = EntryPoint(name, target, ENTRY_POINT_GROUP).load()
    except ModuleNotFoundError as error:
        return _not_installed(name, room, error.name or "a package")
    if not isinstance(command, click.Command):
        raise ProcunitError(f"the entry point {target} is not a command", remedy="Reinstall procunit-edge")
    return command


def _not_installed(name: str, room: str, module: str) -> click.Command:
    extra = _EXTRA_OF_ROOM.get(room, "offline")

    @click.command(
        name=name,
        help=f"(not installed: pip install 'procunit-edge[{extra}]')",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def missing() -> None:
        raise ProcunitError(
            f"`procunit {name}` needs the module {module!r}, which is not installed",
            remedy=f"Run: pip install 'procunit-edge[{extra}]'",
        )

    return missing


if __name__ == "__main__":
    main()
