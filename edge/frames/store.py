"""Frames of inspected parts, written by a thread of their own: inspection never waits for their disk.

Every inspected frame stays for a while at model resolution; what a person looks at, what was rejected and what could
not be judged stays whole (PNG, lossless). The files and their quota are `frame_ring.py`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.contract.encoding import rounded_score
from edge.contract.payloads import shows_frame
from edge.errors import ProcunitError
from edge.frames.files import KEPT, RING, UNSENT, FrameFiles, StoredFrame, frame_name, part_hash
from edge.frames.heatmap import relevance_from_scores
from edge.frames.image import (
    Record,
    frame_at_model_resolution,
    png_from_pixels,
    png_with_map,
)
from edge.frames.labels import checked_label
from edge.geometry import Geometry
from edge.messages import Inspection, PinAnswer, PixelArray, Scores, Verdict

MAX_WAITING_BYTES = 64 << 20
"""Pixels that may wait for the disk; frames of plain passes get half of it."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _WaitingFrame:
    result_id: str
    part: str | None
    name: str
    pixels: PixelArray
    shown: bool
    inspected: bool
    record: Record
    scores: Scores | None


class FrameStore:
    """The newest frames within `quota_bytes`, at the resolution of a bundle's geometry.

    `error` is why frames cannot be written as they should at present, `dropped` counts those that came too fast.

    Raises:
        ProcunitError: the folder cannot be made or read.
    """

    def __init__(
        self, directory: Path, quota_bytes: int, geometry: Geometry | None = None, bundle_id: str | None = None
    ) -> None:
        self.error: Exception | None = None
        self.dropped = 0
        self._geometry = geometry or Geometry()
        self._bundle_id = bundle_id
        self._waiting_changed = threading.Condition()
        self._waiting: deque[_WaitingFrame] = deque()
        self._waiting_bytes = 0
        self._being_written: _WaitingFrame | None = None
        self._labels: dict[str, str] = {}
        self._closing = False
        self._ring_lock = threading.Lock()
        try:
            self._ring = FrameFiles(directory, quota_bytes)
        except OSError as error:
            raise ProcunitError(
                f"the frames' folder cannot be used: {error.strerror}",
                where=str(directory),
                remedy="Check its owner, its mode and its disk",
            ) from error
        self._writer = threading.Thread(target=self._write_loop, name="frames", daemon=True)
        self._writer.start()

    def put(self, inspection: Inspection, result_id: str, *, snapshot: bool = False) -> bool:
        """Hand an inspection's frame over; returns at once, False if there is none or no room to wait.

        A `snapshot` is published whatever the verdict. The pixels are not copied and must not change afterwards.
        """
        frame, decision = inspection.trigger.frame, inspection.decision
        if frame is None:
            return False
        shown, part_id = snapshot or shows_frame(decision), inspection.trigger.part_id
        waiting = _WaitingFrame(
            result_id,
            None if part_id is None else part_hash(part_id),
            frame_name(result_id, "audit" if decision.audit else decision.verdict.value, part_id),
            frame.pixels,
            shown,
            decision.verdict is not Verdict.NOT_INSPECTED,
            _record(inspection, result_id, self._bundle_id),
            inspection.scores if shown else None,
        )
        room_bytes = MAX_WAITING_BYTES if shown else MAX_WAITING_BYTES // 2
        with self._waiting_changed:
            if self._waiting_bytes and self._waiting_bytes + frame.pixels.nbytes > room_bytes:
                self.dropped += 1
                return False
            self._waiting.append(waiting)
            self._waiting_bytes += frame.pixels.nbytes
            self._waiting_changed.notify_all()
        return True

    def next_unsent(self) -> StoredFrame | None:
        """The oldest frame that is still to be published."""
        with self._ring_lock:
            return self._ring.next_unsent()

    def mark_sent(self, frame: StoredFrame) -> None:
        """The frame is published, or never will be: it stays, as one of those kept."""
        with self._ring_lock:
            try:
                self._ring.keep_sent(frame)
            except OSError as error:
                _logger.warning("frame %s cannot be moved: %s", frame.path, error)

    def resend(self, result_id: str) -> bool:
        """Publish a result's frame again, whole if it is still there; False if there is none any more."""
        with self._ring_lock:
            frames = self._ring.of_result(result_id)
            for frame in frames:
                self._ring.send_again(frame)
        return bool(frames)

    def pin_part(self, part_id: str, label: str) -> PinAnswer:
        """Keep all frames of a part for the next training, as what the label says.

        Raises:
            ProcunitError: that is no label, or the disk refuses.
        """
        part = part_hash(part_id)
        return self._pin(checked_label(label), lambda ring: ring.of_part(part_id), lambda frame: frame.part == part)

    def pin_result(self, result_id: str, label: str) -> PinAnswer:
        """Keep a result's frame for the next training, as what the label says.

        Raises:
            ProcunitError: that is no label, or the disk refuses.
        """
        return self._pin(
            checked_label(label), lambda ring: ring.of_result(result_id), lambda frame: frame.result_id == result_id
        )

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

    def _pin(
        self,
        label: str,
        stored: Callable[[FrameFiles], list[StoredFrame]],
        is_meant: Callable[[_WaitingFrame], bool],
    ) -> PinAnswer:
        with self._waiting_changed:
            current = [self._being_written] if self._being_written else []
            coming = [waiting.result_id for waiting in (*current, *self._waiting) if is_meant(waiting)]
            self._labels.update(dict.fromkeys(coming, label))
        pinned = no_room = 0
        with self._ring_lock:
            try:
                for frame in stored(self._ring):
                    if frame.result_id in coming:
                        continue
                    if self._ring.has_room_to_pin(frame):
                        pinned += self._ring.pin(frame, label) is not None
                    else:
                        no_room += 1
            except OSError as error:
                raise ProcunitError(
                    f"frames cannot be pinned: {error.strerror}", remedy="Check the disk and send the label again"
                ) from error
        return PinAnswer(pinned, len(coming), no_room)

    def _write_loop(self) -> None:
        while (waiting := self._next_waiting()) is not None:
            try:
                self._write(waiting)
                self.error = self._ring.low_disk
            except Exception as error:
                if self.error is None:
                    _logger.exception("frame %s cannot be written", waiting.name)
                self.error = error
            with self._waiting_changed:
                self._being_written = None
                label = self._labels.pop(waiting.result_id, None)
            if label is not None:
                self._pin_late(waiting.result_id, label)
            with self._waiting_changed:
                self._waiting_bytes -= waiting.pixels.nbytes
                self._waiting_changed.notify_all()

    def _next_waiting(self) -> _WaitingFrame | None:
        with self._waiting_changed:
            self._waiting_changed.wait_for(lambda: self._waiting or self._closing)
            self._being_written = self._waiting.popleft() if self._waiting else None
            return self._being_written

    def _write(self, waiting: _WaitingFrame) -> None:
        files: list[tuple[str, PixelArray]] = []
        if waiting.inspected:
            files.append((RING, frame_at_model_resolution(waiting.pixels, self._geometry)))
        if waiting.shown or not waiting.inspected:
            files.append((UNSENT if waiting.shown else KEPT, waiting.pixels))
        for folder, pixels in files:
            png = png_from_pixels(pixels, waiting.record)
            if waiting.scores is not None and pixels is waiting.pixels:
                height_px, width_px = pixels.shape[:2]
                relevance_u8 = relevance_from_scores(waiting.scores, height_px, width_px, self._geometry)
                png = png_with_map(png, relevance_u8)
            with self._ring_lock:
                self._ring.write(folder, waiting.name, png)

    def _pin_late(self, result_id: str, label: str) -> None:
        """Pin a frame whose label came before it was written."""
        try:
            answer = self.pin_result(result_id, label)
        except ProcunitError as error:
            _logger.warning("the label of %s is lost: %s", result_id, error)
            return
        if not answer.pinned:
            _logger.warning("the label of %s is lost: its frame was not written, or there is no room", result_id)


def _record(inspection: Inspection, result_id: str, bundle_id: str | None) -> Record:
    trigger, decision, scores = inspection.trigger, inspection.decision, inspection.scores
    return {
        "result_id": result_id,
        "part_id": trigger.part_id,
        "frame_id": trigger.frame_id,
        "triggered_at_utc": trigger.triggered_at_utc,
        "verdict": decision.verdict.value,
        "audit": decision.audit,
        "type_scores": None if scores is None else [rounded_score(score, None) for score in scores.type_scores],
        "anomaly_score": None if scores is None else rounded_score(scores.anomaly_score, None),
        "bundle_id": bundle_id,
    }
