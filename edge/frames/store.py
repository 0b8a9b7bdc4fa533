"""The frame store: writes frames on a thread of its own, so that inspection never waits for the disk.

Every inspected frame is kept for a while at model resolution. Frames of reviewed, rejected, audited and uninspected
parts are also kept at full resolution (PNG, lossless). `files.py` manages the files and their quota.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.frames.files import FrameFiles
from edge.frames.heatmap import relevance_from_scores
from edge.frames.image import frame_at_model_resolution, png_from_pixels, png_with_map
from edge.frames.labels import NOBODY, Labeller, checked_label
from edge.frames.pin_record import LabelEntry, check_key, entry_from_labeller
from edge.frames.stored import KEPT, RING, UNSENT, Matches, OfPart, StoredFrame, part_hash
from edge.frames.waiting import WaitingPart, waiting_part
from edge.messages import Inspection, PinAnswer, PixelArray
from edge.queued_worker import QueuedWorker
from edge.recipe import Recipe
from edge.system.clock import utc_now
from edge.worker import Problems, WorkerState

FRAMES_CLOSE_S = 15.0
"""How long the queued frames may take at the end; those that are left then are not kept."""
MAX_WAITING_BYTES = 64 << 20
"""Limit on pixels waiting for the disk; half of it for frames that are not published."""
WRITE_DEADLINE_S = 10.0
"""A frame that takes longer is a fault: the disk does not answer."""
_NEXT_UNSENT_S = 0.2
"""How long the question for the next frame waits for the disk, so that it does not hold up results."""

_logger = logging.getLogger(__name__)


class FrameStore:
    """The newest frames within `quota_bytes`, each view at the resolution of its geometry; the `Worker` of the frames.

    Raises:
        ProcunitError: the folder cannot be created or read.
    """

    name = "frames"
    stop_s = FRAMES_CLOSE_S

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self._unwritten_lock = threading.Lock()
        self._unwritten: dict[WaitingPart, None] = {}  # in the order of their coming
        self._files_lock = threading.Lock()
        try:
            self._files = FrameFiles(directory, quota_bytes)
        except OSError as error:
            raise ProcunitError(
                f"the frames' folder cannot be used: {error.strerror}",
                where=str(directory),
                remedy="Check its owner, its mode and its disk",
            ) from error
        self._worker: QueuedWorker[WaitingPart] = QueuedWorker(
            self.name,
            "writing a frame",
            self._write_and_label,
            size=lambda waiting: waiting.size_bytes,
            limit=lambda waiting: MAX_WAITING_BYTES if waiting.shown else MAX_WAITING_BYTES // 2,
            failed=FaultId.FRAMES_FAILED,
            full=FaultId.FRAMES_DROPPED,
            deadline_s=WRITE_DEADLINE_S,
            stop_s=self.stop_s,
        )

    @property
    def state(self) -> WorkerState:
        """See `Worker`."""
        return self._worker.state

    @property
    def dropped(self) -> int:
        """Parts whose frames are not kept, as they came too fast or were left at the end."""
        return self._worker.dropped

    @property
    def error(self) -> Exception | None:
        """Why frames are not written as they should be, or None."""
        return self._worker.error or self._files.problem

    def problems(self) -> Problems:
        """See `Worker`."""
        problems = self._worker.problems()
        files = None if self._files.problem is None else str(self._files.problem)
        return {**problems, FaultId.FRAMES_FAILED: problems[FaultId.FRAMES_FAILED] or files}

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def stop(self) -> bool:
        """Write the queued frames and end; those that are not written within `stop_s` are dropped."""
        return self._worker.stop()

    def __enter__(self) -> FrameStore:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, inspection: Inspection, result_id: str, recipe: Recipe, *, snapshot: bool = False) -> bool:
        """Queue the frames of an inspection for writing, one for each view.

        Returns at once; False if there are none or the queue is full, and then none is kept. A `snapshot` is published
        whatever the verdict; `recipe` judged the part. The pixels are not copied; do not change them afterwards.
        """
        if not inspection.trigger.views:
            return False
        waiting = waiting_part(inspection, result_id, recipe, snapshot=snapshot)
        with self._unwritten_lock:
            taken = self._worker.put(waiting)
            if taken:
                self._unwritten[waiting] = None
        return taken

    def next_unsent(self, may_send: Callable[[StoredFrame], bool] = lambda _frame: True) -> StoredFrame | None:
        """The oldest frame still to be published, of those that may be now, or None.

        None, too, while the disk holds up the writing of one.
        """
        if not self._files_lock.acquire(timeout=_NEXT_UNSENT_S):
            return None
        try:
            return self._files.next_unsent(may_send)
        finally:
            self._files_lock.release()

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
        return self._worker.flush(timeout_s)

    def _pin(self, label: str, labeller: Labeller, matches: Matches) -> PinAnswer:
        entry = entry_from_labeller(checked_label(label), labeller, utc_now())
        with self._unwritten_lock:
            parts = {frame.part for frame in self._unwritten if matches(frame)}
        with self._files_lock:
            parts |= {frame.part for frame in self._files.matching(matches)}

            def of_part(frame: OfPart) -> bool:
                return matches(frame) or (frame.part is not None and frame.part in parts)

            check_key(entry, self._files.pinned_with(of_part))
        with self._unwritten_lock:
            labelled = [frame for frame in self._unwritten if frame.labels and of_part(frame)]
            check_key(entry, [(frame.result_id, frame.labels[-1].label) for frame in labelled])
            coming = [frame for frame in self._unwritten if matches(frame)]
            for frame in coming:
                frame.labels = (*frame.labels, entry)
        pinned, no_room = self._pin_stored(matches, (entry,), {frame.result_id for frame in coming})
        return PinAnswer(pinned, sum(len(part.views) for part in coming), no_room)

    def _pin_stored(
        self, matches: Matches, entries: tuple[LabelEntry, ...], coming: Collection[str] = ()
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

    def _write_and_label(self, waiting: WaitingPart) -> None:
        try:
            self._write(waiting)
        finally:
            with self._unwritten_lock:
                del self._unwritten[waiting]  # from now on a label finds its files
            if waiting.labels:
                self._pin_late(waiting.result_id, waiting.labels)

    def _write(self, waiting: WaitingPart) -> None:
        for view in waiting.views:
            files: list[tuple[str, PixelArray]] = []
            if waiting.inspected:
                files.append((RING, frame_at_model_resolution(view.pixels, waiting.recipe.geometries[view.name])))
            if waiting.shown or not waiting.inspected:
                files.append((UNSENT if waiting.shown else KEPT, view.pixels))
            for folder, pixels in files:
                png = png_from_pixels(pixels, view.record)
                if view.scores is not None and pixels is view.pixels:
                    height_px, width_px = pixels.shape[:2]
                    geometry = waiting.recipe.geometries[view.name]
                    relevance_u8 = relevance_from_scores(view.scores, height_px, width_px, geometry)
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
