"""One stored frame: its file name, its folder, and its worth.

Folders: `ring` has every inspected frame at model resolution. `unsent` has frames at full resolution still to be
published, `kept` the other frames at full resolution. `pinned` has frames for the next training, each with a JSON file.
A file name contains result id, verdict and a hash of the part id, so that a restart needs nothing but the folders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from edge.contract.encoding import clean_text
from edge.contract.payloads import SHOWN_VERDICTS
from edge.frames.pin_record import label_of_pinned

RING, UNSENT, KEPT, PINNED = "ring", "unsent", "kept", "pinned"
_NAME = re.compile(r"([0-9a-f]+-[0-9]+)\.([a-z_]+)(?:\.([0-9a-f]{16}))?\.png")
_AUDIT = "audit"


class Worth(IntEnum):
    """Value of a frame; frames of lower value are evicted first."""

    PASS = 0
    AUDIT = 1
    SHOWN = 2
    PINNED = 3


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame on disk; `part` is a hash of the part id, `label` that of a pinned frame; None if there is none."""

    result_id: str
    path: Path
    size_bytes: int
    worth: Worth
    part: str | None = None
    label: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether a label keeps it for the next training."""
        return self.worth is Worth.PINNED


class OfPart(Protocol):
    """A frame of a result and a part, stored or waiting."""

    @property
    def result_id(self) -> str:
        """The result's id."""

    @property
    def part(self) -> str | None:
        """The hash of the part's id."""


Matches = Callable[[OfPart], bool]
"""Whether a frame is meant."""


def part_hash(part_id: str) -> str:
    """Hash of a part id for file names, as the id may contain any character; equal for the id as it was published."""
    return hashlib.sha256(clean_text(part_id).encode()).hexdigest()[:16]


def frame_name(result_id: str, decided: str, part_id: str | None) -> str:
    """The file name; `decided` is a verdict or `audit`."""
    return ".".join((result_id, decided, *([part_hash(part_id)] if part_id is not None else []), "png"))


def frame_from_path(path: Path, size_bytes: int) -> StoredFrame | None:
    """The frame that a file name stands for; None if it is no frame's."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    result_id, decided, part = match.groups()
    if path.parent.name == PINNED:
        return StoredFrame(result_id, path, size_bytes, Worth.PINNED, part, label_of_pinned(path))
    worth = Worth.SHOWN if decided in SHOWN_VERDICTS else Worth.AUDIT if decided == _AUDIT else Worth.PASS
    return StoredFrame(result_id, path, size_bytes, worth, part)


def frames_on_disk(directory: Path) -> list[StoredFrame]:
    """The files of an earlier run, oldest first; half-written files are deleted.

    Within an epoch their numbers give the order, as the clock may have stepped; epochs come in the order in which they
    were last written to.
    """
    for partial in directory.rglob(".*.partial"):
        partial.unlink()
    found: list[tuple[str, int, StoredFrame]] = []
    last_written_ns: dict[str, int] = {}
    for folder in (RING, UNSENT, KEPT, PINNED):
        for path in (directory / folder).iterdir():
            stat = path.stat()
            if (frame := frame_from_path(path, stat.st_size)) is not None:
                epoch, seq = frame.result_id.split("-")
                found.append((epoch, int(seq), frame))
                last_written_ns[epoch] = max(last_written_ns.get(epoch, 0), stat.st_mtime_ns)
    found.sort(key=lambda entry: (last_written_ns[entry[0]], entry[0], entry[1]))
    return [frame for _, _, frame in found]
