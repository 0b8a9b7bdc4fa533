"""Image files under a quota, written by a thread of their own: inspection never waits for the disk of frames.

Frames are kept lossless (PNG), so that any of them can become a training image, in two folders: `unsent` holds those
that are still to be published, `kept` all others. The file's name tells the result and how interesting the frame is.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import ProcunitError
from edge.messages import Inspection, PixelArray
from edge.payloads import shows_frame

MAX_WAITING_BYTES = 64 << 20
"""Pixels that may wait for the disk; frames of plain passes get half of it."""
MIN_JPEG_SIDE_PX = 64

_JPEG_QUALITIES = (90, 75, 50)
_PNG_COMPRESSION = 1  # nearly as small as the default and several times as fast
_NAME = re.compile(r"([0-9a-f]+-[0-9]+)\.([a-z_]+)\.png")
_SHOWN = ("audit", "review", "reject")
_UNSENT, _KEPT = "unsent", "kept"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame on disk; `shown` frames are those that a person looks at or that were rejected."""

    result_id: str
    path: Path
    size_bytes: int
    shown: bool


@dataclass(frozen=True, slots=True)
class _WaitingFrame:
    name: str
    result_id: str
    pixels: PixelArray
    shown: bool


class FrameStore:
    """The newest frames within `quota_bytes`.

    When it is full the oldest pass goes first; shown frames go, oldest first, only while they take more than half of
    the quota. `error` is why frames cannot be written at present, `dropped` counts those that came too fast.

    Raises:
        ProcunitError: the folder cannot be made or read.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self.error: Exception | None = None
        self.dropped = 0
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._waiting_changed = threading.Condition()
        self._waiting: deque[_WaitingFrame] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self._stored_lock = threading.Lock()
        self._stored: dict[bool, OrderedDict[str, StoredFrame]] = {False: OrderedDict(), True: OrderedDict()}
        self._stored_bytes = {False: 0, True: 0}
        self._unsent: OrderedDict[str, StoredFrame] = OrderedDict()
        try:
            for frame in _frames_on_disk(directory):
                self._remember(frame)
            self._evict()
        except OSError as error:
            raise ProcunitError(
                f"the frames' folder cannot be used: {error.strerror}",
                where=str(directory),
                remedy="Check its owner, its mode and its disk",
            ) from error
        self._writer = threading.Thread(target=self._write_loop, name="frames", daemon=True)
        self._writer.start()

    def put(self, inspection: Inspection, result_id: str) -> bool:
        """Hand an inspection's frame over; returns at once, False if there is none or no room to wait.

        The pixels are not copied and must not change afterwards.
        """
        frame, decision = inspection.trigger.frame, inspection.decision
        if frame is None:
            return False
        shown = shows_frame(decision)
        name = f"{result_id}.{'audit' if decision.audit else decision.verdict.value}.png"
        room_bytes = MAX_WAITING_BYTES if shown else MAX_WAITING_BYTES // 2
        with self._waiting_changed:
            if self._waiting and self._waiting_bytes + frame.pixels.nbytes > room_bytes:
                self.dropped += 1
                return False
            self._waiting.append(_WaitingFrame(name, result_id, frame.pixels, shown))
            self._waiting_bytes += frame.pixels.nbytes
            self._waiting_changed.notify_all()
        return True

    def next_unsent(self) -> StoredFrame | None:
        """The oldest frame that is still to be published."""
        with self._stored_lock:
            return next(iter(self._unsent.values()), None)

    def mark_sent(self, frame: StoredFrame) -> None:
        """The frame is published, or never will be: it stays, as one of those kept."""
        with self._stored_lock:
            if self._unsent.pop(frame.path.name, None) is None:
                return
            kept = replace(frame, path=self._directory / _KEPT / frame.path.name)
            try:
                frame.path.rename(kept.path)
                self._stored[frame.shown][frame.path.name] = kept
            except OSError as error:
                _logger.warning("frame %s cannot be moved: %s", frame.path, error)
                self._forget(frame)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed in is on disk or was given up; False when that took too long."""
        with self._waiting_changed:
            return self._waiting_changed.wait_for(lambda: self._waiting_bytes == 0, timeout_s)

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._waiting_changed:
            self._closing = True
            self._waiting_changed.notify_all()
        self._writer.join()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_loop(self) -> None:
        while (waiting := self._next_waiting()) is not None:
            try:
                stored = self._write(waiting)
                with self._stored_lock:
                    self._remember(stored)
                    self._evict()
                self.error = None
            except Exception as error:
                if self.error is None:
                    _logger.exception("frame %s cannot be written", waiting.name)
                self.error = error
            with self._waiting_changed:
                self._waiting_bytes -= waiting.pixels.nbytes
                self._waiting_changed.notify_all()

    def _next_waiting(self) -> _WaitingFrame | None:
        with self._waiting_changed:
            self._waiting_changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _write(self, waiting: _WaitingFrame) -> StoredFrame:
        _, data = cv2.imencode(".png", waiting.pixels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])
        path = self._directory / (_UNSENT if waiting.shown else _KEPT) / waiting.name
        partial = self._directory / f".{waiting.name}.partial"
        try:
            partial.write_bytes(data.tobytes())
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return StoredFrame(waiting.result_id, path, int(data.size), waiting.shown)

    def _remember(self, frame: StoredFrame) -> None:
        self._stored[frame.shown][frame.path.name] = frame
        self._stored_bytes[frame.shown] += frame.size_bytes
        if frame.path.parent.name == _UNSENT:
            self._unsent[frame.path.name] = frame

    def _evict(self) -> None:
        while sum(self._stored_bytes.values()) > self._quota_bytes:
            too_many_shown = self._stored_bytes[True] > self._quota_bytes // 2
            self._forget(next(iter(self._stored[too_many_shown].values())))

    def _forget(self, frame: StoredFrame) -> None:
        del self._stored[frame.shown][frame.path.name]
        self._unsent.pop(frame.path.name, None)
        self._stored_bytes[frame.shown] -= frame.size_bytes
        frame.path.unlink(missing_ok=True)


def jpeg_from_frame(frame: StoredFrame, max_bytes: int) -> bytes | None:
    """The frame as a JPEG of 8 bits, re-encoded and then scaled down until it fits; None if it never does.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image.
    """
    data = np.frombuffer(frame.path.read_bytes(), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
    if decoded is None:
        raise ValueError(f"{frame.path} is no image")
    pixels = np.asarray(decoded, np.uint8)
    for quality in _JPEG_QUALITIES:
        jpeg = _jpeg(pixels, quality)
        if len(jpeg) <= max_bytes:
            return jpeg
    while min(pixels.shape[:2]) >= 2 * MIN_JPEG_SIDE_PX:
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = np.asarray(cv2.resize(pixels, half, interpolation=cv2.INTER_AREA), np.uint8)
        jpeg = _jpeg(pixels, _JPEG_QUALITIES[-1])
        if len(jpeg) <= max_bytes:
            return jpeg
    return None


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _frames_on_disk(directory: Path) -> list[StoredFrame]:
    """What an earlier run left, oldest first; half-written files are removed."""
    found = []
    for folder in (directory / _UNSENT, directory / _KEPT):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                stat = path.stat()
                found.append((stat.st_mtime_ns, StoredFrame(match[1], path, stat.st_size, match[2] in _SHOWN)))
    for partial in directory.glob(".*.partial"):
        partial.unlink()
    return [frame for _, frame in sorted(found, key=lambda entry: entry[0])]
