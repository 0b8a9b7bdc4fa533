"""The files of the frame store: names, folders, quota, and the order of eviction.

Folders: `ring` has every inspected frame at model resolution. `unsent` has frames at full resolution still to be
published, `kept` the other frames at full resolution. `pinned` has frames for the next training, each with a JSON file.
A file name contains result id, verdict and a hash of the part id, so that a restart needs nothing but the folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from edge.bundle.manifest import GOOD
from edge.contract.encoding import clean_text
from edge.contract.payloads import SHOWN_VERDICTS
from edge.errors import ProcunitError
from edge.frames.image import record_from_png
from edge.frames.pin_record import LabelEntry, label_of_pinned, write_pin_record
from edge.system.files import write_whole

RING, UNSENT, KEPT, PINNED = "ring", "unsent", "kept", "pinned"
MAX_FRAMES = 100_000
"""Limit on the number of files, whatever the quota: fourteen hours at two parts per second."""
LOW_DISK_BYTES = 128 << 20
"""With less free disk space the store does not grow: new frames replace old ones, to leave space for results."""

_Key = tuple[bool, str]
"""(is at model resolution, file name): identifies a file when it moves between folders."""
_NAME = re.compile(r"([0-9a-f]+-[0-9]+)\.([a-z_]+)(?:\.([0-9a-f]{16}))?\.png")
_AUDIT = "audit"


class Worth(IntEnum):
    """Value of a frame; frames of lower value are evicted first, pinned ones only if the quota is made smaller."""

    PASS = 0
    AUDIT = 1
    SHOWN = 2
    GOOD = 3
    DEFECT = 4


_PINNED_WORTHS = (Worth.GOOD, Worth.DEFECT)


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
        return self.worth in _PINNED_WORTHS


def part_hash(part_id: str) -> str:
    """Hash of a part id for file names, as the id may contain any character; equal for the id as it was published."""
    return hashlib.sha256(clean_text(part_id).encode()).hexdigest()[:16]


def frame_name(result_id: str, decided: str, part_id: str | None) -> str:
    """The file name; `decided` is a verdict or `audit`."""
    return ".".join((result_id, decided, *([part_hash(part_id)] if part_id is not None else []), "png"))


class FrameFiles:
    """The files within `quota_bytes`; not thread-safe, the caller holds a lock.

    Eviction: the oldest passes first, then audits, then reviews and rejects. While audits, reviews and rejects take
    more than half of the space that is not pinned, they are evicted before passes, so that passes are kept for a while,
    too. A new frame never displaces a pinned one. If the quota was made smaller, pinned frames are evicted last, and
    labelled defects after good ones.

    Raises:
        OSError: the folders cannot be created or read.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._frames: dict[Worth, OrderedDict[_Key, StoredFrame]] = {worth: OrderedDict() for worth in Worth}
        self._bytes = dict.fromkeys(Worth, 0)
        self._unsent: OrderedDict[_Key, StoredFrame] = OrderedDict()
        for folder in (RING, UNSENT, KEPT, PINNED):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        for frame in _frames_on_disk(directory):
            self._add(frame)
        self._evict(self._quota_bytes)
        self._evict_pinned()

    def write(self, folder: str, name: str, png: bytes) -> StoredFrame:
        """Write a file; evict others if the quota or the disk requires it.

        Raises:
            OSError: it cannot be written.
            ProcunitError: it does not fit.
        """
        used_bytes = sum(self._bytes.values())
        limit_bytes = min(self._quota_bytes, used_bytes) if self.low_disk else self._quota_bytes
        self._evict(limit_bytes - len(png))
        if sum(self._bytes.values()) + len(png) > limit_bytes:
            raise self.low_disk or ProcunitError(
                f"a frame of {len(png)} bytes does not fit the quota of {self._quota_bytes}",
                where=str(self._directory),
                remedy="Raise frames.quota_mb",
            )
        write_whole(self._directory / folder / name, png, durable=False)
        frame = _frame_from_path(self._directory / folder / name, len(png))
        if frame is None:
            raise ValueError(f"{name} is not a valid frame file name")
        self._remove_entry(frame)
        self._add(frame)
        self._evict(limit_bytes)
        return frame

    @property
    def low_disk(self) -> ProcunitError | None:
        """The problem if the disk is nearly full, else None."""
        free_bytes = shutil.disk_usage(self._directory).free
        if free_bytes >= LOW_DISK_BYTES:
            return None
        return ProcunitError(
            f"{free_bytes >> 20} MB are free on the disk; new frames replace old ones",
            where=str(self._directory),
            remedy="Free some disk space",
        )

    def next_unsent(self) -> StoredFrame | None:
        """The first file still to be published, or None."""
        return next(iter(self._unsent.values()), None)

    def send_again(self, frame: StoredFrame) -> None:
        """Queue the file for publishing, after all others; a restart forgets it."""
        self._unsent[_key(frame)] = frame

    def keep_sent(self, frame: StoredFrame) -> None:
        """Remove the file from those to be published, and keep it.

        Raises:
            OSError: it cannot be moved.
        """
        current = self._unsent.pop(_key(frame), None)
        if current is not None and current.path.parent.name == UNSENT:
            self._move(current, replace(current, path=self._directory / KEPT / current.path.name))

    def matching(self, matches: Callable[[StoredFrame], bool]) -> list[StoredFrame]:
        """The best file of each result that matches."""
        best: dict[str, StoredFrame] = {}
        for frames in self._frames.values():
            for frame in filter(matches, frames.values()):
                if frame.result_id not in best or _rank(frame) > _rank(best[frame.result_id]):
                    best[frame.result_id] = frame
        return list(best.values())

    def pinned_with(self, matches: Callable[[StoredFrame], bool]) -> list[tuple[str, str]]:
        """Result id and label of the pinned frames that match, or are of the same part as a frame that does."""
        found = self.matching(matches)
        results, parts = {frame.result_id for frame in found}, {frame.part for frame in found} - {None}
        pinned = [frame for worth in _PINNED_WORTHS for frame in self._frames[worth].values()]
        return [
            (frame.result_id, frame.label)
            for frame in pinned
            if frame.label is not None and (frame.result_id in results or frame.part in parts)
        ]

    def can_pin(self, frame: StoredFrame) -> bool:
        """True if all pinned frames including this one take at most half of the quota, and of the files allowed."""
        if frame.pinned:
            return True
        return self._pinned_bytes + frame.size_bytes <= self._quota_bytes // 2 and self._count_pinned < MAX_FRAMES // 2

    def pin(self, frame: StoredFrame, entries: tuple[LabelEntry, ...]) -> StoredFrame | None:
        """Move a file to `pinned` and write its record and labels beside it; None if the file no longer exists.

        Raises:
            OSError: it cannot be written.
        """
        try:
            record = record_from_png(frame.path)
            with frame.path.open("rb") as stream:
                os.fsync(stream.fileno())
        except FileNotFoundError:
            self._delete(frame)
            return None
        target = self._directory / PINNED / frame.path.name
        write_pin_record(target, frame.result_id, record, entries)
        return self._move(frame, _as_pinned(replace(frame, path=target), entries[-1].label))

    def _move(self, frame: StoredFrame, moved: StoredFrame) -> StoredFrame | None:
        try:
            frame.path.rename(moved.path)
        except FileNotFoundError:
            self._remove_entry(frame)
            return None
        if moved.worth is frame.worth:
            self._frames[frame.worth][_key(frame)] = moved  # same position: its age is unchanged
        else:
            self._frames[frame.worth].pop(_key(frame))
            self._bytes[frame.worth] -= frame.size_bytes
            self._add(moved)
        if _key(frame) in self._unsent:
            self._unsent[_key(frame)] = moved
        return moved

    def _add(self, frame: StoredFrame) -> None:
        self._frames[frame.worth][_key(frame)] = frame
        self._bytes[frame.worth] += frame.size_bytes
        if frame.path.parent.name == UNSENT:
            self._unsent[_key(frame)] = frame

    def _remove_entry(self, frame: StoredFrame) -> None:
        if self._frames[frame.worth].pop(_key(frame), None) is not None:
            self._bytes[frame.worth] -= frame.size_bytes
        self._unsent.pop(_key(frame), None)

    def _delete(self, frame: StoredFrame) -> None:
        frame.path.unlink(missing_ok=True)
        if frame.pinned:
            frame.path.with_suffix(".json").unlink(missing_ok=True)
        self._remove_entry(frame)

    def _evict(self, limit_bytes: int) -> None:
        while sum(self._bytes.values()) > limit_bytes or self._count > MAX_FRAMES:
            frame = self._next_to_evict()
            if frame is None:
                return
            self._delete(frame)

    def _evict_pinned(self) -> None:
        for worth in _PINNED_WORTHS:
            while self._frames[worth] and self._pinned_bytes > self._quota_bytes:
                self._delete(next(iter(self._frames[worth].values())))

    @property
    def _count(self) -> int:
        return sum(len(frames) for frames in self._frames.values())

    @property
    def _count_pinned(self) -> int:
        return sum(len(self._frames[worth]) for worth in _PINNED_WORTHS)

    @property
    def _pinned_bytes(self) -> int:
        return sum(self._bytes[worth] for worth in _PINNED_WORTHS)

    def _next_to_evict(self) -> StoredFrame | None:
        order = [Worth.PASS, Worth.AUDIT, Worth.SHOWN]
        if self._bytes[Worth.AUDIT] + self._bytes[Worth.SHOWN] > (self._quota_bytes - self._pinned_bytes) // 2:
            order = [Worth.AUDIT, Worth.SHOWN, Worth.PASS]
        return next((frame for worth in order for frame in self._frames[worth].values()), None)


def _key(frame: StoredFrame) -> _Key:
    return frame.path.parent.name == RING, frame.path.name


def _rank(frame: StoredFrame) -> tuple[bool, bool]:
    """Rank of several files of one result: pinned is best, then full resolution."""
    return frame.pinned, frame.path.parent.name != RING


def _as_pinned(frame: StoredFrame, label: str) -> StoredFrame:
    return replace(frame, worth=Worth.GOOD if label == GOOD else Worth.DEFECT, label=label)


def _frame_from_path(path: Path, size_bytes: int) -> StoredFrame | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    result_id, decided, part = match.groups()
    worth = Worth.SHOWN if decided in SHOWN_VERDICTS else Worth.AUDIT if decided == _AUDIT else Worth.PASS
    frame = StoredFrame(result_id, path, size_bytes, worth, part)
    return _as_pinned(frame, label_of_pinned(path)) if path.parent.name == PINNED else frame


def _frames_on_disk(directory: Path) -> list[StoredFrame]:
    """The files of an earlier run, oldest first; half-written files are deleted."""
    for partial in directory.rglob(".*.partial"):
        partial.unlink()
    found = []
    for folder in (RING, UNSENT, KEPT, PINNED):
        for path in (directory / folder).iterdir():
            stat = path.stat()
            if (frame := _frame_from_path(path, stat.st_size)) is not None:
                found.append((stat.st_mtime_ns, frame))
    return [frame for _, frame in sorted(found, key=lambda entry: entry[0])]
