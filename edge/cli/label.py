"""`procunit label`: sends the labels of a CSV file to a running device, as commands `label`."""

from __future__ import annotations

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
from edge.terminal import Console, echo

_LISTED_PROBLEMS = 10


@click.command()
@click.argument("labels", type=click.Path(dir_okay=False, path_type=Path), metavar="CSV")
@config_option("Settings of the device, or a copy of them with a user under mqtt who may send it commands.")
def label(labels: Path, config: Path) -> None:
    """Send the true labels of parts to a running device, which keeps their frames for the next training.

    The first line of the file CSV is `part_id,label` or `result_id,label`; a label is `good` or a defect type. Parts
    whose frames are no longer stored are listed. A file may be sent again.

    \b
    Examples:
      procunit label returns.csv --config line.yaml
      procunit label cleared-alarms.csv --config /etc/procunit-edge/line-1.yaml
    """
    settings = settings_from_file(config)
    frame_labels = labels_from_csv(labels)
    frames, problems, console = 0, [], Console()
    with CommandClient(settings.mqtt, root_from_device(settings.device), "label") as device:
        for frame_label in track(
            frame_labels, "labels", console=console, transient=True, disable=not console.is_terminal
        ):
            reply = device.ask(_args(frame_label))
            if reply.outcome == "done":
                frames += reply.count or 0
            elif reply.reason is Refusal.IMPOSSIBLE:
                problems.append(f"{frame_label.part_id or frame_label.result_id}: {reply.text}")
            else:
                raise ProcunitError(f"the device refused the label: {reply.text}", where=str(labels))
    echo(f"{len(frame_labels) - len(problems)} of {len(frame_labels)} labels; {frames} frames are kept for training")
    for line in problems[:_LISTED_PROBLEMS]:
        echo(f"  {line}")
    if len(problems) > _LISTED_PROBLEMS:
        echo(f"  and {len(problems) - _LISTED_PROBLEMS} more")


def _args(frame_label: FrameLabel) -> dict[str, object]:
    item = {"partId": frame_label.part_id} if frame_label.part_id is not None else {"resultId": frame_label.result_id}
    return {"label": frame_label.label, **item}
