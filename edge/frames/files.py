"""The files of the frame store: quota, order of eviction, and what is pinned."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edge.errors import ProcunitError
from edge.frames.disk_room import DiskRoom
from edge.frames.image import record_from_png
from edge.frames.pin_record import LabelEntry, write_pin_record
from edge.frames.stored import (
    KEPT,
    PINNED,
    RING,
    UNSENT,
    StoredFrame,
    Worth,
    frame_from_path,
    frames_on_disk,
)
from edge.system.files import write_whole

MAX_FRAMES = 100_000
"""Limit on the number of files, whatever the quota: fourteen hours at two parts per second."""
_Key = tuple[bool, str]
"""(is at model resolution, file name): identifies a file when it moves between folders."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_TRIES = 16


_REPLACEABLE = (Worth.PASS, Worth.AUDIT, Worth.SHOWN)
"""Everything but pinned frames."""


class FrameFiles:
    """The files within `quota_bytes`; not thread-safe, the caller holds a lock.

    Eviction: the oldest passes first, then audits, then reviews and rejects; pinned frames never. While audits, reviews
    and rejects take more than half of the space that is not pinned, they are evicted before passes, so that passes are
    kept for a while, too. On a nearly full disk a frame replaces only frames that are not worth more than itself.

    Raises:
        OSError: the folders cannot be created or read.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self._directory = directory
        self._room = DiskRoom(directory)
        self._quota_bytes = quota_bytes
        self._frames: dict[Worth, OrderedDict[_Key, StoredFrame]] = {worth: OrderedDict() for worth in Worth}
        self._bytes = dict.fromkeys(Worth, 0)
        self._unsent: OrderedDict[_Key, StoredFrame] = OrderedDict()
        for folder in (RING, UNSENT, KEPT, PINNED):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        for frame in frames_on_disk(directory):
            self._add(frame)
        self._evict(self._quota_bytes, MAX_FRAMES)

    def write(self, folder: str, name: str, png: bytes) -> StoredFrame:
        """Write a file; evict others if the quota or the disk requires it, but none if it does not fit even then.

        Raises:
            OSError: it cannot be written.
            ProcunitError: it does not fit.
        """
        frame = frame_from_path(self._directory / folder / name, len(png))
        if frame is None:
            raise ValueError(f"{name} is not a valid frame file name")
        self._room.look(sum(self._bytes.values()), self._count)
        limit_bytes = min(self._quota_bytes, self._room.limit_bytes)
        limit_count = min(MAX_FRAMES, self._room.limit_count)
        replaceable: tuple[Worth, ...] = _REPLACEABLE
        if self._room.problem is not None:
            replaceable = tuple(worth for worth in _REPLACEABLE if worth <= frame.worth)
        free_bytes = limit_bytes - sum(self._bytes.values()) + sum(self._bytes[worth] for worth in replaceable)
        free_count = limit_count - self._count + sum(len(self._frames[worth]) for worth in replaceable)
        if len(png) > free_bytes or free_count < 1:
            raise self._room.problem or self._does_not_fit(len(png))
        self._evict(limit_bytes - len(png), limit_count - 1, replaceable)
        self._write_on_full_disk(frame, png)
        self._remove_entry(frame)
        self._add(frame)
        return frame

    @property
    def problem(self) -> ProcunitError | None:
        """Why frames are not kept as they should be, or None."""
        if self._bytes[Worth.PINNED] > self._quota_bytes:
            return ProcunitError(
                f"the pinned frames take {_mb(self._bytes[Worth.PINNED])}, more than the quota of "
                f"{_mb(self._quota_bytes)}; they are kept, and no new frame is",
                where=str(self._directory),
                remedy="Raise frames.quota_mb, or take the folder `pinned` away for the next training",
            )
        return self._room.problem

    def _does_not_fit(self, size_bytes: int) -> ProcunitError:
        pinned = f", of which pinned frames take {_mb(self._bytes[Worth.PINNED])}" if self._bytes[Worth.PINNED] else ""
        return ProcunitError(
            f"a frame of {_mb(size_bytes)} does not fit the quota of {_mb(self._quota_bytes)}{pinned}; it is not kept",
            where=str(self._directory),
            remedy="Raise frames.quota_mb",
        )

    def _write_on_full_disk(self, frame: StoredFrame, png: bytes) -> None:
        """Write a file; where the disk has no room for it, old frames that are not worth more make it."""
        for tries_left in reversed(range(_MAX_TRIES)):
            try:
                write_whole(frame.path, png, durable=False)
            except OSError as error:
                if error.errno not in _FULL or not tries_left or not self._replace_one(frame.worth):
                    raise
            else:
                return

    def _replace_one(self, worth: Worth, spared: StoredFrame | None = None) -> bool:
        """Delete the oldest frame of the lowest worth, `worth` at most; False if there is none."""
        order = [lower for lower in _REPLACEABLE if lower <= worth]
        candidates = (frame for lower in order for frame in self._frames[lower].values() if frame != spared)
        oldest = next(candidates, None)
        if oldest is not None:
            self._delete(oldest)
        return oldest is not None

    def next_unsent(self, may_send: Callable[[StoredFrame], bool]) -> StoredFrame | None:
        """The first file still to be published that may be now, or None."""
        return next(filter(may_send, self._unsent.values()), None)

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
        """The best file of each view of each result that matches."""
        best: dict[tuple[str, str], StoredFrame] = {}
        for frames in self._frames.values():
            for frame in filter(matches, frames.values()):
                of_view = frame.result_id, frame.view
                if of_view not in best or _rank(frame) > _rank(best[of_view]):
                    best[of_view] = frame
        return list(best.values())

    def pinned_with(self, matches: Callable[[StoredFrame], bool]) -> list[tuple[str, str]]:
        """Result id and label of the pinned frames that match, or are of the same part as a frame that does."""
        found = self.matching(matches)
        results, parts = {frame.result_id for frame in found}, {frame.part for frame in found} - {None}
        return [
            (frame.result_id, frame.label)
            for frame in self._frames[Worth.PINNED].values()
            if frame.label is not None and (frame.result_id in results or frame.part in parts)
        ]

    def can_pin(self, frame: StoredFrame) -> bool:
        """True if all pinned frames including this one take at most half of the quota, and of the files allowed."""
        if frame.pinned:
            return True
        pinned_bytes, count = self._bytes[Worth.PINNED], len(self._frames[Worth.PINNED])
        return pinned_bytes + frame.size_bytes <= self._quota_bytes // 2 and count < MAX_FRAMES // 2

    def pin(self, frame: StoredFrame, entries: tuple[LabelEntry, ...]) -> StoredFrame | None:
        """Move a file to `pinned` and write its record and labels beside it; None if the file no longer exists.

        On a full disk the record takes the place of another frame.

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
        try:
            write_pin_record(target, frame.result_id, record, entries)
        except OSError as error:
            if error.errno not in _FULL or not self._replace_one(Worth.SHOWN, spared=frame):
                raise
            write_pin_record(target, frame.result_id, record, entries)
        return self._move(frame, replace(frame, path=target, worth=Worth.PINNED, label=entries[-1].label))

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

    def _evict(self, limit_bytes: int, limit_count: int, replaceable: Sequence[Worth] = _REPLACEABLE) -> None:
        """Delete frames until the limits hold, or only frames that are not replaceable are left."""
        while sum(self._bytes.values()) > limit_bytes or self._count > limit_count:
            oldest = self._next_to_evict(replaceable)
            if oldest is None:
                return
            self._delete(oldest)

    @property
    def _count(self) -> int:
        return sum(len(frames) for frames in self._frames.values())

    def _next_to_evict(self, replaceable: Sequence[Worth]) -> StoredFrame | None:
        order = list(replaceable)
        shown_bytes = self._bytes[Worth.AUDIT] + self._bytes[Worth.SHOWN]
        if Worth.SHOWN in order and shown_bytes > (self._quota_bytes - self._bytes[Worth.PINNED]) // 2:
            order = [Worth.AUDIT, Worth.SHOWN, Worth.PASS]
        return next((frame for worth in order for frame in self._frames[worth].values()), None)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.3g} MB"


def _key(frame: StoredFrame) -> _Key:
    return frame.path.parent.name == RING, frame.path.name


def _rank(frame: StoredFrame) -> tuple[bool, bool]:
    """Rank of several files of one view of a result: pinned is best, then full resolution."""
    return frame.pinned, frame.path.parent.name != RING
