"""`procunit command sign`: signs a command with a key that the device trusts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from pydantic import ValidationError

from edge.bundle.keys import signing_key_from_file
from edge.cli.options import config_option
from edge.commands.client import position_of_device
from edge.commands.command_state import Position
from edge.commands.desk import MAX_LIFETIME_S
from edge.commands.envelope import envelope_to_sign, signed
from edge.commands.table import COMMANDS
from edge.config.file import settings_from_file
from edge.contract.commands import MAX_COMMAND_BYTES
from edge.contract.topics import root_from_device
from edge.errors import ProcunitError, first_problem
from edge.system.files import bytes_from_file
from edge.terminal import echo, echo_json

_ROOT = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/){1,6}v[0-9]+")
_TWO_WAYS = (
    "Give --config, to read them from the broker; or --root, --state-id and --counter: `stateId` in the device's "
    "status, and a number above `commandCounter` there"
)


@click.command()
@click.argument("name", type=click.Choice(list(COMMANDS)))
@click.argument("args", type=click.Path(path_type=Path, dir_okay=False), required=False, metavar="[ARGS]")
@click.option("--root", help="Root of the device's topics, as `procunit check-config` shows it.")
@click.option("--state-id", metavar="ID", help="`stateId` in the device's status.")
@click.option(
    "--counter", type=click.IntRange(min=1), help="A number above `commandCounter` in the device's status: 1 more."
)
@config_option(
    "Settings of the device, or a copy of them with a user under mqtt who may read its status: root, state id and "
    "counter are then read from the broker.",
    required=False,
)
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Private key that the device trusts."
)
@click.option("--by", help="Who sends the command, for the audit record.")
@click.option(
    "--valid-min",
    type=click.FloatRange(min=0, min_open=True, max=MAX_LIFETIME_S / 60),
    default=10.0,
    show_default=True,
    help="Minutes until the command expires.",
)
def sign(
    name: str,
    args: Path | None,
    root: str | None,
    state_id: str | None,
    counter: int | None,
    config: Path | None,
    key: Path,
    by: str | None,
    valid_min: float,
) -> None:
    """Sign the command NAME with the arguments in the JSON file ARGS, and print it, ready to be published.

    It can be used once, on one device, until it expires or the device accepts a command with a higher counter. What it
    orders then holds until it is changed. The device's state id and its counter are in its retained status, on the
    topic ROOT/status.

    \b
    Examples:
      procunit command sign threshold limits.json --config line.yaml --key release.key > command.json
      mosquitto_pub -V 5 -q 1 -t acme/graz/line-1/edge-1/v1/cmd/threshold -f command.json
      procunit command sign disarm --root acme/graz/line-1/edge-1/v1 --key release.key --by m.huber \\
        --state-id 5f0c1a2b3c4d5e6f5f0c1a2b3c4d5e6f --counter 8
    """
    root, after = _root_and_position(root, state_id, counter, config)
    envelope = envelope_to_sign({} if args is None else _arguments(args), by, after, 60 * valid_min)
    kind = COMMANDS[name]
    try:
        kind.read(envelope)
    except ValidationError as error:
        where = None if args is None else str(args)
        raise ProcunitError(first_problem(error), where=where, remedy="See the example in docs/mes.md") from error
    signing_key = signing_key_from_file(key)
    if signing_key.demo:
        echo(f"{key} is a demo key: a device takes this command only while it uses a demo bundle", err=True)
    echo_json(signed(envelope, signing_key.key, root, kind.name), indent=2)


def _root_and_position(
    root: str | None, state_id: str | None, counter: int | None, config: Path | None
) -> tuple[str, Position]:
    """The root of the device's topics, and the position that the command follows."""
    if root is not None and not _ROOT.fullmatch(root):
        raise ProcunitError(
            f"{root!r} is not a root of topics", remedy="Give one such as acme/graz/line-1/edge-1/v1, without `/cmd`"
        )
    if config is not None and state_id is None and counter is None:
        settings = settings_from_file(config)
        root = root or root_from_device(settings.device)
        return root, position_of_device(settings.mqtt, root)
    if config is not None or root is None or state_id is None or counter is None:
        raise ProcunitError("a signed command needs the device's root, state id and counter", remedy=_TWO_WAYS)
    return root, Position(state_id, counter - 1)


def _arguments(path: Path) -> object:
    try:
        arguments: object = json.loads(bytes_from_file(path, MAX_COMMAND_BYTES))
    except (ValueError, RecursionError) as error:
        raise ProcunitError(f"the arguments are not JSON: {error}", where=str(path)) from error
    return arguments
