"""Frames on their way to the broker: one at a time, as large as the link carries without holding up results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.contract.encoding import frame_topic, heatmap_topic
from edge.contract.topics import JPEG
from edge.frames.files import StoredFrame
from edge.frames.image import heatmap_from_file, jpeg_from_file
from edge.frames.store import FrameStore
from edge.mqtt.connection import Connection

_MARGIN_BYTES = 4096

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Heatmap:
    frame: StoredFrame
    jpeg: bytes


class FrameSender:
    """Sends unsent frames over one connection, each with its heatmap behind it.

    `on_way` is the frame whose photograph or heatmap is not acknowledged yet.
    """

    def __init__(
        self, connection: Connection, store: FrameStore | None, pace: FramePace, root: str, max_packet_bytes: int
    ) -> None:
        self.on_way: StoredFrame | None = None
        self._connection = connection
        self._store = store
        self._pace = pace
        self._root = root
        self._max_packet_bytes = max_packet_bytes
        self._packet_id = 0
        self._heatmap: _Heatmap | None = None
        self._next_heatmap: _Heatmap | None = None

    def send(self, all_results_sent: Callable[[], bool]) -> None:
        """Send the next image, if there is one and it is due; asked once it is known, all results have to be sent.

        Raises:
            LinkError: the connection is over.
        """
        if self._store is None or self.on_way is not None or self._pace.due_in_s(time.monotonic()) > 0:
            return
        heatmap = self._heatmap
        frame = heatmap.frame if heatmap is not None else self._store.next_unsent()
        if frame is None or not all_results_sent():
            return
        if heatmap is not None:
            self._publish(frame, heatmap_topic(frame.result_id), heatmap.jpeg)
            return
        max_bytes = min(self._max_packet_bytes - _MARGIN_BYTES, self._pace.max_bytes)
        jpeg, heatmap_jpeg = _jpegs(frame, max_bytes)
        if jpeg is None:
            self._store.mark_sent(frame)
            return
        self._next_heatmap = None if heatmap_jpeg is None else _Heatmap(frame, heatmap_jpeg)
        self._publish(frame, frame_topic(frame.result_id), jpeg)

    def settle(self, packet_id: int, refusal: str | None) -> bool | None:
        """Take note of a PUBACK: whether a photograph was accepted, or None if it belongs to another message."""
        if self.on_way is None or packet_id != self._packet_id:
            return None
        frame, self.on_way = self.on_way, None
        self._pace.acknowledged(time.monotonic())
        if refusal is not None:
            _logger.warning("the broker refused an image of %s: %s", frame.result_id, refusal)
        was_photograph = self._heatmap is None
        self._heatmap = self._next_heatmap if was_photograph and refusal is None else None
        self._next_heatmap = None
        if self._heatmap is None and self._store is not None:
            self._store.mark_sent(frame)
        return was_photograph and refusal is None

    def _publish(self, frame: StoredFrame, topic: str, jpeg: bytes) -> None:
        self.on_way = frame
        self._pace.sent(len(jpeg), time.monotonic())
        self._packet_id = self._connection.publish(f"{self._root}/{topic}", jpeg, retain=False, content_type=JPEG)


def _jpegs(frame: StoredFrame, max_bytes: int) -> tuple[bytes | None, bytes | None]:
    """The photograph and its heatmap, either None if it cannot be had or is too large."""
    try:
        jpeg, heatmap = jpeg_from_file(frame.path, max_bytes), heatmap_from_file(frame.path, max_bytes)
    except (OSError, ValueError) as error:
        _logger.warning("frame %s cannot be published: %s", frame.path, error)
        return None, None
    if jpeg is None:
        _logger.warning("frame %s cannot be published: too large for the broker at any quality", frame.path)
    return jpeg, heatmap


FIRST_FRAME_BYTES = 64_000
"""Size of the first frame, while nothing is known of the link: half a second at 1 Mbit/s."""


MIN_FRAME_BYTES, MAX_FRAME_BYTES = 24_000, 900_000
"""Sizes between which a frame is fitted to the link; the larger one is below what common brokers take."""


FRAME_SHARE_S = 0.4
"""A frame may hold up the results behind it for so long."""


class FramePace:
    """When the next frame may go and how large it may be.

    MQTT cannot interrupt a packet, so a result waits for the frame before it. The size follows what the link carried:
    bytes of a frame over the time to its PUBACK. All times are of the monotonic clock.
    """

    def __init__(self, frames_per_min: int) -> None:
        self.max_bytes = FIRST_FRAME_BYTES
        self._interval_s = 60 / frames_per_min
        self._next_s = self._sent_s = 0.0
        self._sent_bytes = 0

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the next frame may go; 0 or less if it may go now."""
        return self._next_s - now_s

    def sent(self, size_bytes: int, now_s: float) -> None:
        """A frame goes out."""
        self._sent_bytes, self._sent_s = size_bytes, now_s
        self._next_s = now_s + self._interval_s

    def acknowledged(self, now_s: float) -> None:
        """The frame's PUBACK is there."""
        took_s = max(now_s - self._sent_s, 1e-3)
        carried = int(self._sent_bytes / took_s * FRAME_SHARE_S)
        if took_s > FRAME_SHARE_S:
            self.max_bytes = max(carried, MIN_FRAME_BYTES)
        else:  # what a buffer swallowed says little of more than that
            self.max_bytes = max(self.max_bytes, min(carried, 2 * self._sent_bytes, MAX_FRAME_BYTES))
