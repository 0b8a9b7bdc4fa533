"""The replay camera: photographs of a folder or a CSV list, replayed as if their parts passed on the line.

The counter is the 1-based row number. After a restart the replay continues with the row after the last counter.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edge.camera.source import Arrival, CameraSettings, FrameError, SourceEnded
from edge.errors import ProcunitError
from edge.image_file import IMAGE_SUFFIXES, read_image
from edge.messages import Frame
from edge.settings_section import ExistingPath, StrictNumber
from edge.system.clock import utc_now
from edge.system.csv_file import CsvRow, table_from_csv


class ReplaySettings(CameraSettings):
    """The `camera` section for `kind: replay`."""

    kind: Literal["replay"] = Field(title="Kind", description="replay: photographs from the disk")
    path: ExistingPath = Field(
        title="Photographs",
        description="A folder of images, or a CSV file with the columns file, part_id and, if known, arrival_s",
    )
    parts_per_min: Annotated[StrictNumber, Field(gt=0, le=60_000)] | Literal["max", "listed"] = Field(
        default="max",
        title="Rate",
        description="Parts per minute; `max`: as fast as they can be inspected; `listed`: by the column arrival_s",
    )
    at_end: Literal["stop", "hold"] = Field(
        default="stop",
        title="At the end",
        description="`stop` ends the program after the last part, `hold` keeps it running",
    )


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One part of the list; `arrival_s` is seconds from the start of the list, None if not listed."""

    image: Path
    part_id: str | None
    arrival_s: float | None


class ReplayCamera:
    """Photographs from the disk as a camera: source of triggers and frames.

    Raises:
        ProcunitError: the folder contains no image, or the list is faulty; the text names the line.
    """

    settings_model: ClassVar[type[CameraSettings]] = ReplaySettings
    simulated: ClassVar[bool] = True

    def __init__(self, settings: ReplaySettings, *, after_counter: int | None) -> None:
        rows = replay_rows_from_folder(settings.path) if settings.path.is_dir() else replay_rows_from_csv(settings.path)
        done = min(after_counter or 0, len(rows))
        self.self_paced = settings.parts_per_min == "max"
        self._rows = rows
        self._due_s = _schedule(rows[done:], settings)
        self._next = self._first = done
        self._hold = settings.at_end == "hold"
        self._started_s = time.monotonic()

    def wait_arrival(self, timeout_s: float) -> Arrival | None:
        """Wait for the next part; see `TriggerSource`."""
        if self._next == len(self._rows):
            if not self._hold:
                raise SourceEnded
            time.sleep(timeout_s)
            return None
        due_s = self._started_s + self._due_s[self._next - self._first]
        wait_s = due_s - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return None
        if wait_s > 0:  # a sleep of 0 s would still give way to the other threads
            time.sleep(wait_s)
        self._next += 1
        row = self._rows[self._next - 1]
        # on a real line a part arrives when it is due, even if nobody waits for it
        arrived_s = time.monotonic() if self.self_paced else due_s
        return Arrival(str(self._next), row.part_id, self._next, utc_now(), int(arrived_s * 1e9))

    def read_frame(self, arrival: Arrival) -> Frame:
        """Read the photograph of this part; see `FrameSource`."""
        try:
            pixels = read_image(self._rows[arrival.counter - 1].image)
        except ProcunitError as error:
            raise FrameError(str(error)) from error
        return Frame(
            arrival.frame_id,
            arrival.part_id,
            arrival.counter,
            arrival.arrived_at_utc,
            arrival.arrived_monotonic_ns,
            pixels,
        )

    def close(self) -> None:
        """Nothing is held open."""


def replay_rows_from_folder(folder: Path) -> tuple[ReplayRow, ...]:
    """The images of a folder, sorted by name; each is one part.

    Raises:
        ProcunitError: the folder has no image.
    """
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise ProcunitError(
            "the folder contains no image",
            where=str(folder),
            remedy="Name a folder of images, or a CSV file that lists them",
        )
    return tuple(ReplayRow(image, image.name, None) for image in images)


def replay_rows_from_csv(path: Path) -> tuple[ReplayRow, ...]:
    """The parts of a CSV list, in its order; files are relative to its folder, other columns (`truth`) are ignored.

    Raises:
        ProcunitError: the list cannot be read, is empty, or a row is faulty.
    """
    table = table_from_csv(path, needed=("file", "part_id"), optional=("arrival_s",))
    rows = tuple(_replay_row(row, path.parent) for row in table.rows)
    if not rows:
        raise ProcunitError("lists no part", where=str(path), remedy="Add a line for each part")
    for number, (before, after) in enumerate(pairwise(rows), start=2):
        if before.arrival_s is not None and after.arrival_s is not None and after.arrival_s < before.arrival_s:
            raise ProcunitError(
                f"part {number} arrives before the part above it", where=str(path), remedy="Sort by arrival_s"
            )
    return rows


def _replay_row(row: CsvRow, folder: Path) -> ReplayRow:
    file, text = row.cells["file"], row.cells.get("arrival_s")
    if not file:
        raise ProcunitError("the cell `file` is empty", where=row.where, remedy="Fill the cell or remove the line")
    try:
        arrival_s = float(text) if text else None
    except ValueError:
        arrival_s = math.nan
    if arrival_s is not None and not 0 <= arrival_s < math.inf:
        raise ProcunitError(f"arrival_s is {text!r}", where=row.where, remedy="Give seconds from the start, 0 or more")
    return ReplayRow(folder / file, row.cells["part_id"] or None, arrival_s)


def _schedule(rows: tuple[ReplayRow, ...], settings: ReplaySettings) -> list[float]:
    """Seconds from the start of the replay at which each row is due."""
    if settings.parts_per_min == "max":
        return [0.0] * len(rows)
    if settings.parts_per_min != "listed":
        return [60.0 * index / settings.parts_per_min for index in range(len(rows))]
    listed = [row.arrival_s for row in rows if row.arrival_s is not None]
    if len(listed) != len(rows):
        raise ProcunitError(
            "parts_per_min is `listed`, but not every part has an arrival_s",
            where=str(settings.path),
            remedy="Fill the column arrival_s, or set parts_per_min to a number",
        )
    return [arrival_s - listed[0] for arrival_s in listed]
