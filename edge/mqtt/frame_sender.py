"""Sends frames to the broker: one at a time, each small enough for the link not to delay results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.contract.topics import FRAME_IMAGE, FRAME_VIEW_IMAGE, JPEG, Topic, heatmap_topic, image_topic
from edge.errors import ProcunitError
from edge.frames.image import heatmap_from_file, jpeg_from_file
from edge.frames.store import FrameStore
from edge.frames.stored import StoredFrame
from edge.messages import MAIN_VIEW
from edge.mqtt.connection import Connection
from edge.mqtt.refused_topics import RefusedTopics

FIRST_FRAME_BYTES = 64_000
"""Size of the first frame, before the link was measured: half a second at 1 Mbit/s."""
MIN_FRAME_BYTES, MAX_FRAME_BYTES = 24_000, 900_000
"""Bounds of the size to which a frame is compressed; common brokers accept the larger one."""
FRAME_SHARE_S = 0.4
"""Longest time that a frame should delay the results sent after it."""

_MARGIN_BYTES = 4096

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Heatmap:
    frame: StoredFrame
    jpeg: bytes


class FrameSender:
    """Sends unsent frames over one connection, each followed by its heatmap.

    `in_flight` is the frame whose photograph or heatmap was sent and is not acknowledged yet, `topic_name` on which
    topic.
    """

    def __init__(
        self,
        connection: Connection,
        store: FrameStore | None,
        pace: FramePace,
        root: str,
        max_packet_bytes: int,
        topics: RefusedTopics,
    ) -> None:
        self.in_flight: StoredFrame | None = None
        self.topic_name = ""
        self._topics = topics
        self._connection = connection
        self._store = store
        self._pace = pace
        self._root = root
        self._max_packet_bytes = max_packet_bytes
        self._packet_id = 0
        self._heatmap: _Heatmap | None = None
        self._next_heatmap: _Heatmap | None = None

    def send(self, all_results_sent: Callable[[], bool]) -> None:
        """Send the next photograph or heatmap, if there is one, it is due, and `all_results_sent` returns True.

        Raises:
            LinkError: the connection ended.
        """
        if self._store is None or self.in_flight is not None or self._pace.due_in_s(time.monotonic()) > 0:
            return
        now_s = time.monotonic()
        heatmap = self._heatmap
        if heatmap is not None and not self._topics.may_send(heatmap_topic(heatmap.frame.view).suffix, now_s):
            self._store.mark_sent(heatmap.frame)
            heatmap = self._heatmap = None
        frame = heatmap.frame if heatmap is not None else self._next_photograph(now_s)
        if frame is None or not all_results_sent():
            return
        if heatmap is not None:
            self._publish(frame, heatmap_topic(frame.view), heatmap.jpeg)
            return
        max_bytes = min(self._max_packet_bytes - _MARGIN_BYTES, self._pace.max_bytes)
        jpeg, heatmap_jpeg = _jpegs(frame, max_bytes)
        if jpeg is None:
            self._store.mark_sent(frame)
            return
        self._next_heatmap = None if heatmap_jpeg is None else _Heatmap(frame, heatmap_jpeg)
        self._publish(frame, image_topic(frame.view), jpeg)

    def handle_puback(self, packet_id: int, refusal: str | None) -> bool | None:
        """Handle a PUBACK; `refusal` is the reason if it is one.

        Returns whether it accepted a photograph, or None if it belongs to another message.
        """
        if self.in_flight is None or packet_id != self._packet_id:
            return None
        frame, self.in_flight = self.in_flight, None
        self._pace.acknowledged(time.monotonic())
        if refusal is not None:
            _logger.warning("the broker refused an image of %s: %s", frame.result_id, refusal)
        was_photograph = self._heatmap is None
        self._heatmap = self._next_heatmap if was_photograph and refusal is None else None
        self._next_heatmap = None
        if self._heatmap is None and self._store is not None:
            self._store.mark_sent(frame)
        return was_photograph and refusal is None

    def _next_photograph(self, now_s: float) -> StoredFrame | None:
        """The oldest unsent frame whose topic does not rest: a topic of one view holds up no other view."""
        if self._store is None:
            return None
        may_main, may_others = (self._topics.may_send(topic.suffix, now_s) for topic in (FRAME_IMAGE, FRAME_VIEW_IMAGE))
        return self._store.next_unsent(lambda frame: may_main if frame.view == MAIN_VIEW else may_others)

    def _publish(self, frame: StoredFrame, topic: Topic, jpeg: bytes) -> None:
        self.in_flight, self.topic_name = frame, topic.suffix
        self._pace.sent(len(jpeg), time.monotonic())
        address = topic.at(self._root, resultId=frame.result_id, view=frame.view)
        self._packet_id = self._connection.publish(address, jpeg, retain=False, content_type=JPEG)


def _jpegs(frame: StoredFrame, max_bytes: int) -> tuple[bytes | None, bytes | None]:
    """The photograph and its heatmap; either is None if it cannot be read or is too large."""
    try:
        jpeg, heatmap = jpeg_from_file(frame.path, max_bytes), heatmap_from_file(frame.path, max_bytes)
    except ProcunitError as error:
        _logger.warning("a frame cannot be published: %s", error)
        return None, None
    if jpeg is None:
        _logger.warning("frame %s cannot be published: too large for the broker at any quality", frame.path)
    return jpeg, heatmap


class FramePace:
    """When the next frame may be sent, and how large it may be.

    MQTT cannot interrupt a packet, so a result waits for the frame sent before it. The size follows the measured
    throughput: bytes of a frame divided by the time to its PUBACK. All times are of the monotonic clock.
    """

    def __init__(self, frames_per_min: int) -> None:
        self.max_bytes = FIRST_FRAME_BYTES
        self._interval_s = 60 / frames_per_min
        self._next_s = self._sent_s = 0.0
        self._sent_bytes = 0

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the next frame may be sent; 0 or less if it may be sent now."""
        return self._next_s - now_s

    def sent(self, size_bytes: int, now_s: float) -> None:
        """Record that a frame of this size is being sent."""
        self._sent_bytes, self._sent_s = size_bytes, now_s
        self._next_s = now_s + self._interval_s

    def acknowledged(self, now_s: float) -> None:
        """Record the frame's PUBACK and adapt the size to the throughput."""
        took_s = max(now_s - self._sent_s, 1e-3)
        affordable = int(self._sent_bytes / took_s * FRAME_SHARE_S)
        if took_s > FRAME_SHARE_S:
            self.max_bytes = max(affordable, MIN_FRAME_BYTES)
        else:  # a buffer may have absorbed the frame, which proves little about larger ones
            self.max_bytes = max(self.max_bytes, min(affordable, 2 * self._sent_bytes, MAX_FRAME_BYTES))
