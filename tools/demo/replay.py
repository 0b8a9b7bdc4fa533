"""The parts on the demonstration's line: not used for training, with their truth, as a list for the replay camera."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from training.data.run_files import TRAIN_FILE, TrainRecord, read_record

_COLUMNS = ("file", "part_id", "truth")


@dataclass(frozen=True)
class ReplayPart:
    """One row of the list; `file` is absolute or relative to the list's folder, `truth` is good or the defect type."""

    file: str
    part_id: str
    truth: str


def parts_from_run(run: Path, seed: int) -> list[ReplayPart]:
    """The photographs that training reserved for the reserved run, good and defective, in a random order.

    A photograph whose content was also used for training or calibration, under another name, is left out.

    Raises:
        click.ClickException: training reserved none.
    """
    record = read_record(run, TRAIN_FILE, TrainRecord)
    used = {photo.sha256 for photo in record.photos if photo.role != "seed"}
    reserved = [photo for photo in record.photos if photo.role == "seed" and photo.sha256 not in used]
    if not reserved:
        raise click.ClickException(f"{record.data}: too few parts to reserve any for the line. Add photographs")
    order = np.random.default_rng(seed).permutation(len(reserved))
    data = Path(record.data).resolve()
    return [ReplayPart(str(data / reserved[i].file), reserved[i].part_id, reserved[i].label) for i in order]


def write_replay_list(path: Path, parts: list[ReplayPart]) -> None:
    """Write the list for `camera: {kind: replay, path: ...}`."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((part.file, part.part_id, part.truth) for part in parts)


def read_replay_list(path: Path) -> list[ReplayPart]:
    """Read the parts of a list in order; the row number, from 1, is the camera's counter."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [ReplayPart(row["file"], row["part_id"], row["truth"]) for row in csv.DictReader(stream)]
