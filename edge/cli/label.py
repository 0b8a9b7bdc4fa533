"""`procunit label`: sends the labels of a CSV file to a running device, as commands `label`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from rich.progress import track

from edge.bundle.keys import SigningKey, signing_key_from_file
from edge.cli.options import config_option
from edge.commands.client import CommandClient, position_of_device
from edge.commands.command_state import Position
from edge.commands.envelope import envelope_to_sign, signed, unsigned_envelope
from edge.config.file import settings_from_file
from edge.contract.commands import Refusal
from edge.contract.topics import root_from_device
from edge.errors import ProcunitError
from edge.frames.labels import FrameLabel, labels_from_csv
from edge.terminal import Console, echo

_LISTED_PROBLEMS = 10
_VALID_S = 600.0


@click.command()
@click.argument("labels", type=click.Path(dir_okay=False, path_type=Path), metavar="CSV")
@config_option("Settings of the device, or a copy of them with a user under mqtt who may send it commands.")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEY",
    help="Private key that the device trusts, to sign the labels: needed to call a labelled defect good.",
)
@click.option("--by", help="Who labels, for the history of each label.")
@click.option(
    "--new-type", "new_types", multiple=True, metavar="NAME", help="A defect type that the bundle does not have yet."
)
def label(labels: Path, config: Path, key: Path | None, by: str | None, new_types: tuple[str, ...]) -> None:
    """Send the true labels of parts to a running device, which keeps their frames for the next training.

    The first line of the file CSV is `part_id,label` or `result_id,label`; a label is `good` or a defect type of the
    bundle. Parts whose frames are no longer stored are listed, and so are labels that the device does not know, or that
    need a key. A file may be sent again.

    \b
    Examples:
      procunit label returns.csv --config line.yaml --by m.huber
      procunit label returns.csv --config line.yaml --new-type porosity
      procunit label corrections.csv --config /etc/procunit-edge/line-1.yaml --key release.key
    """
    settings = settings_from_file(config)
    root = root_from_device(settings.device)
    frame_labels = labels_from_csv(labels)
    signing = (
        None if key is None else _Signing(signing_key_from_file(key), root, position_of_device(settings.mqtt, root))
    )
    frames, problems, console = 0, [], Console()
    with CommandClient(settings.mqtt, root, "label") as device:
        for frame_label in track(
            frame_labels, "labels", console=console, transient=True, disable=not console.is_terminal
        ):
            args = _args(frame_label, new_types)
            reply = device.ask(unsigned_envelope(args, by) if signing is None else signing.next_envelope(args, by))
            if reply.outcome == "done":
                frames += reply.count or 0
            elif reply.reason is Refusal.IMPOSSIBLE or (reply.reason is Refusal.SIGNATURE and key is None):
                problems.append(f"{frame_label.part_id or frame_label.result_id}: {reply.text}")
            else:
                raise ProcunitError(f"the device refused the label: {reply.text}", where=str(labels))
    echo(f"{len(frame_labels) - len(problems)} of {len(frame_labels)} labels; {frames} frames are kept for training")
    for line in problems[:_LISTED_PROBLEMS]:
        echo(f"  {line}")
    if len(problems) > _LISTED_PROBLEMS:
        echo(f"  and {len(problems) - _LISTED_PROBLEMS} more")


class _Signing:
    """Signs one label after the other, each with the next counter of the device."""

    def __init__(self, key: SigningKey, root: str, position: Position) -> None:
        self._key = key
        self._root = root
        self._position = position

    def next_envelope(self, args: dict[str, object], by: str | None) -> dict[str, object]:
        """The next label, signed."""
        envelope = envelope_to_sign(args, by, self._position, _VALID_S)
        self._position = replace(self._position, counter=self._position.counter + 1)
        return signed(envelope, self._key.key, self._root, "label")


def _args(frame_label: FrameLabel, new_types: tuple[str, ...]) -> dict[str, object]:
    item = {"partId": frame_label.part_id} if frame_label.part_id is not None else {"resultId": frame_label.result_id}
    new = {"newType": True} if frame_label.label in new_types else {}
    return {"label": frame_label.label, **item, **new}
