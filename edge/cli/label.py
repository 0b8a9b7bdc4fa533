"""`procunit label`: labels from a CSV file to a running device, as its command `label`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.progress import track

from edge.cli.options import config_option
from edge.commands.client import CommandClient
from edge.config.file import settings_from_file
from edge.contract.commands import Refusal
from edge.contract.topics import root_from_device
from edge.errors import ProcunitError
from edge.frames.labels import FrameLabel, labels_from_csv

_SHOWN = 10


@click.command()
@click.argument("labels", type=click.Path(dir_okay=False, path_type=Path), metavar="CSV")
@config_option("Settings of the device, or a copy of them with a user under mqtt who may send it commands.")
def label(labels: Path, config: Path) -> None:
    """Tell a running device what parts turned out to be: it keeps their frames for the next training.

    The first line of the file CSV is `part_id,label` or `result_id,label`; a label is `good` or a defect type. Parts
    whose frames have made room for newer ones are named. A file may be sent again.

    \b
    Examples:
      procunit label returns.csv --config line.yaml
      procunit label cleared-alarms.csv --config /etc/procunit-edge/line-1.yaml
    """
    settings = settings_from_file(config)
    found = labels_from_csv(labels)
    frames, without = 0, []
    with CommandClient(settings.mqtt, root_from_device(settings.device), "label") as device:
        for one in track(found, "labels", transient=True, disable=not sys.stdout.isatty()):
            reply = device.ask(_args(one))
            if reply.outcome == "done":
                frames += reply.count or 0
            elif reply.reason is Refusal.IMPOSSIBLE:
                without.append(f"{one.part_id or one.result_id}: {reply.text}")
            else:
                raise ProcunitError(f"the device refuses the label: {reply.text}", where=str(labels))
    click.echo(f"{len(found) - len(without)} of {len(found)} labels; {frames} frames are kept for training")
    for line in without[:_SHOWN]:
        click.echo(f"  {line}")
    if len(without) > _SHOWN:
        click.echo(f"  and {len(without) - _SHOWN} more")


def _args(one: FrameLabel) -> dict[str, object]:
    name = {"partId": one.part_id} if one.part_id is not None else {"resultId": one.result_id}
    return {"label": one.label, **name}
