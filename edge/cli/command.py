"""`procunit command sign`: signs a command with a key that the device trusts."""

from __future__ import annotations

import json
import re
import time
import uuid
from pathlib import Path

import click
from pydantic import ValidationError

from edge.bundle.keys import signing_key_from_file
from edge.commands.desk import MAX_LIFETIME_S
from edge.commands.signature import signature_from_key
from edge.commands.table import COMMANDS
from edge.errors import ProcunitError, first_problem
from edge.system.clock import utc_from_unix_s
from edge.terminal import echo_json

_ROOT = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/){1,6}v[0-9]+")


@click.command()
@click.argument("name", type=click.Choice(list(COMMANDS)))
@click.argument("args", type=click.Path(path_type=Path, dir_okay=False), required=False, metavar="[ARGS]")
@click.option("--root", required=True, help="Root of the device's topics, as `procunit check-config` shows it.")
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
def sign(name: str, args: Path | None, root: str, key: Path, by: str | None, valid_min: float) -> None:
    """Sign the command NAME with the arguments in the JSON file ARGS, and print it, ready to be published.

    It can be used once, on one device, until it expires.

    \b
    Examples:
      procunit command sign threshold limits.json --root acme/graz/line-1/edge-1/v1 --key release.key > command.json
      mosquitto_pub -V 5 -q 1 -t acme/graz/line-1/edge-1/v1/cmd/threshold -f command.json
      procunit command sign disarm --root acme/graz/line-1/edge-1/v1 --key release.key --by m.huber
    """
    if not _ROOT.fullmatch(root):
        raise ProcunitError(
            f"{root!r} is not a root of topics", remedy="Give one such as acme/graz/line-1/edge-1/v1, without `/cmd`"
        )
    now_s = time.time()
    envelope: dict[str, object] = {
        "cmdId": uuid.uuid4().hex,
        "issuedAt": utc_from_unix_s(now_s),
        "expiresAt": utc_from_unix_s(now_s + 60 * valid_min),
        "args": {} if args is None else _arguments(args),
    }
    if by is not None:
        envelope["by"] = by
    try:
        COMMANDS[name].read(envelope)
    except ValidationError as error:
        where = None if args is None else str(args)
        raise ProcunitError(first_problem(error), where=where, remedy="See the example in docs/mes.md") from error
    signature = signature_from_key(signing_key_from_file(key).key, root, name, envelope)
    echo_json({**envelope, "signature": signature}, indent=2)


def _arguments(path: Path) -> object:
    try:
        arguments: object = json.loads(path.read_bytes())
    except OSError as error:
        raise ProcunitError(f"the arguments cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ProcunitError(f"the arguments are not JSON: {error}", where=str(path)) from error
    return arguments
