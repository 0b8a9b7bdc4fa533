"""The frame store: writes frames in its own thread, so that inspection never waits for the disk.

Every inspected frame is kept for a while at model resolution. Frames of reviewed, rejected, audited and uninspected
parts are also kept at full resolution (PNG, lossless). `files.py` manages the files and their quota.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from edge.errors import ProcunitError
from edge.frames.files import FrameFiles
from edge.frames.heatmap import relevance_from_scores
from edge.frames.image import frame_at_model_resolution, png_from_pixels, png_with_map
from edge.frames.labels import NOBODY, Labeller, checked_label
from edge.frames.pin_record import LabelEntry, check_key, entry_from_labeller
from edge.frames.stored import KEPT, RING, UNSENT, StoredFrame, part_hash
from edge.frames.waiting import WaitingPart, waiting_part
from edge.geometry import Geometry
from edge.messages import MAIN_VIEW, Inspection, PinAnswer, PixelArray
from edge.system.clock import utc_now

FRAMES_CLOSE_S = 15.0
"""How long the queued frames may take at the end; those that are left then are not kept."""
MAX_WAITING_BYTES = 64 << 20
"""Limit on pixels waiting for the disk; half of it for frames that are not published."""

_logger = logging.getLogger(__name__)


class _OfPart(Protocol):
    """A frame of a result and a part, stored or waiting."""

    @property
    def result_id(self) -> str:
        """The result's id."""

    @property
    def part(self) -> str | None:
        """The hash of the part's id."""


_Matches = Callable[[_OfPart], bool]


class FrameStore:
    """The newest frames within `quota_bytes`, each view at the resolution of its geometry in the bundle.

    While frames cannot be written as they should, `error` is the reason. `dropped` counts frames that came too fast.

    Raises:
        ProcunitError: the folder cannot be created or read.
    """

    def __init__(
        self,
        directory: Path,
        quota_bytes: int,
        geometries: Mapping[str, Geometry] | None = None,
        bundle_id: str | None = None,
    ) -> None:
        self.error: Exception | None
        self.dropped = 0
        self._geometries = geometries or {MAIN_VIEW: Geometry()}
        self._bundle_id = bundle_id
        self._waiting_changed = threading.Condition()
        self._waiting: deque[WaitingPart] = deque()
        self._waiting_bytes = 0
        self._being_written: WaitingPart | None = None
        self._labels: dict[str, tuple[LabelEntry, ...]] = {}
        self._closing = False
        self._files_lock = threading.Lock()
        try:
            self._files = FrameFiles(directory, quota_bytes)
        except OSError as error:
            raise ProcunitError(
                f"the frames' folder cannot be used: {error.strerror}",
                where=str(directory),
                remedy="Check its owner, its mode and its disk",
            ) from error
        self.error = self._files.problem
        self._writer = threading.Thread(target=self._write_loop, name="frames", daemon=True)
        self._writer.start()

    def put(self, inspection: Inspection, result_id: str, *, snapshot: bool = False) -> bool:
        """Queue the frames of an inspection for writing, one for each view.

        Returns at once; False if there are none or the queue is full, and then none is kept. A `snapshot` is published
        whatever the verdict. The pixels are not copied; do not change them afterwards.
        """
        if not inspection.trigger.views:
            return False
        waiting = waiting_part(inspection, result_id, self._bundle_id, snapshot=snapshot)
        limit_bytes = MAX_WAITING_BYTES if waiting.shown else MAX_WAITING_BYTES // 2
        with self._waiting_changed:
            if self._waiting_bytes and self._waiting_bytes + waiting.size_bytes > limit_bytes:
                self.dropped += len(waiting.views)
                return False
            self._waiting.append(waiting)
            self._waiting_bytes += waiting.size_bytes
            self._waiting_changed.notify_all()
        return True

    def next_unsent(self, may_send: Callable[[StoredFrame], bool] = lambda _frame: True) -> StoredFrame | None:
        """The oldest frame still to be published, of those that may be now; None if there is none."""
        with self._files_lock:
            return self._files.next_unsent(may_send)

    def mark_sent(self, frame: StoredFrame) -> None:
        """Mark a frame as published (or as impossible to publish); its file is kept."""
        with self._files_lock:
            try:
                self._files.keep_sent(frame)
            except OSError as error:
                _logger.warning("frame %s cannot be moved: %s", frame.path, error)

    def resend(self, result_id: str) -> bool:
        """Publish the frames of a result again, at full resolution if still stored; False if no file is left."""
        with self._files_lock:
            frames = self._files.matching(lambda frame: frame.result_id == result_id)
            for frame in frames:
                self._files.send_again(frame)
        return bool(frames)

    def pin_part(self, part_id: str, label: str, labeller: Labeller = NOBODY) -> PinAnswer:
        """Pin all frames of a part for the next training, with this label.

        Raises:
            NeedsKeyError: an unsigned label calls a part good that is labelled as a defect.
            ProcunitError: the label is not valid, or the disk fails.
        """
        part = part_hash(part_id)
        return self._pin(label, labeller, lambda frame: frame.part == part)

    def pin_result(self, result_id: str, label: str, labeller: Labeller = NOBODY) -> PinAnswer:
        """Pin the frames of a result for the next training, with this label.

        Raises:
            NeedsKeyError: an unsigned label calls a frame good whose part is labelled as a defect.
            ProcunitError: the label is not valid, or the disk fails.
        """
        return self._pin(label, labeller, lambda frame: frame.result_id == result_id)

    def flush(self, timeout_s: float) -> bool:
        """Wait until every queued frame is written or given up; False after the timeout."""
        with self._waiting_changed:
            return self._waiting_changed.wait_for(lambda: self._waiting_bytes == 0, timeout_s)

    def close(self) -> None:
        """Write the queued frames and end the thread; what takes longer than `FRAMES_CLOSE_S` is given up."""
        with self._waiting_changed:
            self._closing = True
            self._waiting_changed.notify_all()
        self._writer.join(FRAMES_CLOSE_S)
        with self._waiting_changed:
            left = sum(len(part.views) for part in self._waiting)
            self._waiting.clear()
        if left:
            self.dropped += left
            _logger.warning("%d frames could not be written within %.0f s and are not kept", left, FRAMES_CLOSE_S)

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pin(self, label: str, labeller: Labeller, matches: _Matches) -> PinAnswer:
        entry = entry_from_labeller(checked_label(label), labeller, utc_now())
        with self._waiting_changed:
            parts = {frame.part for frame in self._not_written if matches(frame)}
        with self._files_lock:
            parts |= {frame.part for frame in self._files.matching(matches)}

            def of_part(frame: _OfPart) -> bool:
                return matches(frame) or (frame.part is not None and frame.part in parts)

            check_key(entry, self._files.pinned_with(of_part))
        with self._waiting_changed:
            labelled = [frame for frame in self._not_written if frame.result_id in self._labels and of_part(frame)]
            check_key(entry, [(frame.result_id, self._labels[frame.result_id][-1].label) for frame in labelled])
            coming = [frame for frame in self._not_written if matches(frame)]
            for frame in coming:
                self._labels[frame.result_id] = (*self._labels.get(frame.result_id, ()), entry)
        pinned, no_room = self._pin_stored(matches, (entry,), {frame.result_id for frame in coming})
        return PinAnswer(pinned, sum(len(part.views) for part in coming), no_room)

    @property
    def _not_written(self) -> list[WaitingPart]:
        """The parts whose frames are waiting or being written; the caller holds the lock."""
        return [*([self._being_written] if self._being_written else []), *self._waiting]

    def _pin_stored(
        self, matches: _Matches, entries: tuple[LabelEntry, ...], coming: Collection[str] = ()
    ) -> tuple[int, int]:
        """Pin stored frames, but for those that are coming; returns how many were, and how many had no room."""
        pinned = no_room = 0
        with self._files_lock:
            check_key(entries[-1], self._files.pinned_with(matches))
            try:
                for frame in self._files.matching(matches):
                    if frame.result_id in coming:
                        continue
                    if self._files.can_pin(frame):
                        pinned += self._files.pin(frame, entries) is not None
                    else:
                        no_room += 1
            except OSError as error:
                raise ProcunitError(
                    f"frames cannot be pinned: {error.strerror}", remedy="Check the disk and send the label again"
                ) from error
        return pinned, no_room

    def _write_loop(self) -> None:
        while (waiting := self._next_waiting()) is not None:
            try:
                self._write(waiting)
                self.error = self._files.problem
            except Exception as error:
                if self.error is None:
                    _logger.exception("the frames of %s cannot be written", waiting.result_id)
                self.error = error
            with self._waiting_changed:
                self._being_written = None
                entries = self._labels.pop(waiting.result_id, None)
            if entries is not None:
                self._pin_late(waiting.result_id, entries)
            with self._waiting_changed:
                self._waiting_bytes -= waiting.size_bytes
                self._waiting_changed.notify_all()

    def _next_waiting(self) -> WaitingPart | None:
        with self._waiting_changed:
            self._waiting_changed.wait_for(lambda: self._waiting or self._closing)
            self._being_written = self._waiting.popleft() if self._waiting else None
            return self._being_written

    def _write(self, waiting: WaitingPart) -> None:
        for view in waiting.views:
            files: list[tuple[str, PixelArray]] = []
            if waiting.inspected:
                files.append((RING, frame_at_model_resolution(view.pixels, self._geometries[view.name])))
            if waiting.shown or not waiting.inspected:
                files.append((UNSENT if waiting.shown else KEPT, view.pixels))
            for folder, pixels in files:
                png = png_from_pixels(pixels, view.record)
                if view.scores is not None and pixels is view.pixels:
                    height_px, width_px = pixels.shape[:2]
                    relevance_u8 = relevance_from_scores(view.scores, height_px, width_px, self._geometries[view.name])
                    png = png_with_map(png, relevance_u8)
                with self._files_lock:
                    self._files.write(folder, view.file_name, png)

    def _pin_late(self, result_id: str, entries: tuple[LabelEntry, ...]) -> None:
        """Pin a frame whose labels arrived before the frame was written."""
        try:
            pinned, _no_room = self._pin_stored(lambda frame: frame.result_id == result_id, entries)
        except ProcunitError as error:
            _logger.warning("the label of %s is lost: %s", result_id, error)
            return
        if not pinned:
            _logger.warning(
                "the label of %s is lost: its frame was not written, or the quota for pinned frames is full", result_id
            )
