"""The files of the frame store: their names, what each is worth, and which goes when the quota is used up.

`ring` holds every inspected frame at model resolution, `unsent` and `kept` whole frames that are still to be published
and all others, `pinned` what the next training wants, each with a JSON file beside it. A file's name tells its result,
what was decided and whose part it shows (a hash), so that the folder alone survives a restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from edge.contract.encoding import clean_text
from edge.contract.payloads import SHOWN_VERDICTS
from edge.errors import ProcunitError
from edge.frames.image import record_from_png
from edge.system.files import write_whole

RING, UNSENT, KEPT, PINNED = "ring", "unsent", "kept", "pinned"
MAX_FRAMES = 100_000
"""Files, whatever the quota: at two parts a second fourteen hours."""
LOW_DISK_BYTES = 128 << 20
"""With less free on the disk the store does not grow: new frames take the place of old ones, results go first."""

_Key = tuple[bool, str]
"""Whether a file is at model resolution, and its name: the same wherever it is moved to."""
_NAME = re.compile(r"([0-9a-f]+-[0-9]+)\.([a-z_]+)(?:\.([0-9a-f]{16}))?\.png")
_AUDIT = "audit"


class Worth(IntEnum):
    """How much a frame tells; the least goes first."""

    PASS = 0
    AUDIT = 1
    SHOWN = 2
    PINNED = 3


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame on disk; `part` is a hash of its part's id, None if that is not known."""

    result_id: str
    path: Path
    size_bytes: int
    worth: Worth
    part: str | None = None


def part_hash(part_id: str) -> str:
    """What a file's name says of a part's id, which may hold anything; the same for the id as it was published."""
    return hashlib.sha256(clean_text(part_id).encode()).hexdigest()[:16]


def frame_name(result_id: str, decided: str, part_id: str | None) -> str:
    """The file's name; `decided` is a verdict or `audit`."""
    return ".".join((result_id, decided, *([part_hash(part_id)] if part_id is not None else []), "png"))


class FrameFiles:
    """The files within `quota_bytes`; the caller sees to it that one thread at a time calls.

    When they are too many, the oldest passes go first, then audits, then reviews and rejects; but what people look at
    goes before passes where it takes more than half of what is not pinned, so that passes stay for a while, too.

    Raises:
        OSError: the folder cannot be made or read.
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

    def write(self, folder: str, name: str, png: bytes) -> StoredFrame:
        """Write a file, in the place of older ones where it must be.

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
            raise ValueError(f"{name} is no name of a frame")
        self._take_out(frame)
        self._add(frame)
        self._evict(limit_bytes)
        return frame

    @property
    def low_disk(self) -> ProcunitError | None:
        """That the disk is nearly full."""
        free_bytes = shutil.disk_usage(self._directory).free
        if free_bytes >= LOW_DISK_BYTES:
            return None
        return ProcunitError(
            f"{free_bytes >> 20} MB are free on the disk; new frames take the place of old ones",
            where=str(self._directory),
            remedy="Free some room",
        )

    def next_unsent(self) -> StoredFrame | None:
        """The first file that is to be published."""
        return next(iter(self._unsent.values()), None)

    def send_again(self, frame: StoredFrame) -> None:
        """Publish it behind all others; forgotten at a restart."""
        self._unsent[_key(frame)] = frame

    def keep_sent(self, frame: StoredFrame) -> None:
        """It is published: keep it as one of the others.

        Raises:
            OSError: it cannot be moved.
        """
        current = self._unsent.pop(_key(frame), None)
        if current is not None and current.path.parent.name == UNSENT:
            self._move(current, replace(current, path=self._directory / KEPT / current.path.name))

    def of_result(self, result_id: str) -> list[StoredFrame]:
        """The best file of a result, or none."""
        return self._best(lambda frame: frame.result_id == result_id)

    def of_part(self, part_id: str) -> list[StoredFrame]:
        """The best file of each result of a part."""
        part = part_hash(part_id)
        return self._best(lambda frame: frame.part == part)

    def has_room_to_pin(self, frame: StoredFrame) -> bool:
        """Whether pinned frames, with this one, take at most half of the quota."""
        pinned_already = frame.worth is Worth.PINNED
        return pinned_already or self._bytes[Worth.PINNED] + frame.size_bytes <= self._quota_bytes // 2

    def pin(self, frame: StoredFrame, label: str) -> StoredFrame | None:
        """Keep a file for the next training, its record and the label beside it; None if it is gone.

        Raises:
            OSError: it cannot be written.
        """
        try:
            record = record_from_png(frame.path)
            with frame.path.open("rb") as stream:
                os.fsync(stream.fileno())
        except FileNotFoundError:
            self._forget(frame)
            return None
        target = self._directory / PINNED / frame.path.name
        beside = {"result_id": frame.result_id, **record, "label": label}
        write_whole(target.with_suffix(".json"), json.dumps(beside, indent=1).encode())
        return self._move(frame, replace(frame, path=target, worth=Worth.PINNED))

    def _best(self, wanted: Callable[[StoredFrame], bool]) -> list[StoredFrame]:
        best: dict[str, StoredFrame] = {}
        for frames in self._frames.values():
            for frame in filter(wanted, frames.values()):
                if frame.result_id not in best or _value(frame) > _value(best[frame.result_id]):
                    best[frame.result_id] = frame
        return list(best.values())

    def _move(self, frame: StoredFrame, moved: StoredFrame) -> StoredFrame | None:
        try:
            frame.path.rename(moved.path)
        except FileNotFoundError:
            self._take_out(frame)
            return None
        if moved.worth is frame.worth:
            self._frames[frame.worth][_key(frame)] = moved  # in its place: it is as old as before
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

    def _take_out(self, frame: StoredFrame) -> None:
        if self._frames[frame.worth].pop(_key(frame), None) is not None:
            self._bytes[frame.worth] -= frame.size_bytes
        self._unsent.pop(_key(frame), None)

    def _forget(self, frame: StoredFrame) -> None:
        frame.path.unlink(missing_ok=True)
        if frame.worth is Worth.PINNED:
            frame.path.with_suffix(".json").unlink(missing_ok=True)
        self._take_out(frame)

    def _evict(self, limit_bytes: int) -> None:
        while (sum(self._bytes.values()) > limit_bytes or self._count > MAX_FRAMES) and self._count:
            self._forget(self._least())

    @property
    def _count(self) -> int:
        return sum(len(frames) for frames in self._frames.values())

    def _least(self) -> StoredFrame:
        order = [Worth.PASS, Worth.AUDIT, Worth.SHOWN, Worth.PINNED]
        if self._bytes[Worth.AUDIT] + self._bytes[Worth.SHOWN] > (self._quota_bytes - self._bytes[Worth.PINNED]) // 2:
            order = [Worth.AUDIT, Worth.SHOWN, Worth.PASS, Worth.PINNED]
        return next(frame for worth in order for frame in self._frames[worth].values())


def _key(frame: StoredFrame) -> _Key:
    return frame.path.parent.name == RING, frame.path.name


def _value(frame: StoredFrame) -> tuple[bool, bool]:
    """Of several files of one result the pinned one is the best, then the whole one."""
    return frame.worth is Worth.PINNED, frame.path.parent.name != RING


def _frame_from_path(path: Path, size_bytes: int) -> StoredFrame | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    result_id, decided, part = match.groups()
    if path.parent.name == PINNED:
        worth = Worth.PINNED
    else:
        worth = Worth.SHOWN if decided in SHOWN_VERDICTS else Worth.AUDIT if decided == _AUDIT else Worth.PASS
    return StoredFrame(result_id, path, size_bytes, worth, part)


def _frames_on_disk(directory: Path) -> list[StoredFrame]:
    """What an earlier run left, oldest first; half-written files are removed."""
    for partial in directory.rglob(".*.partial"):
        partial.unlink()
    found = []
    for folder in (RING, UNSENT, KEPT, PINNED):
        for path in (directory / folder).iterdir():
            stat = path.stat()
            if (frame := _frame_from_path(path, stat.st_size)) is not None:
                found.append((stat.st_mtime_ns, frame))
    return [frame for _, frame in sorted(found, key=lambda entry: entry[0])]
