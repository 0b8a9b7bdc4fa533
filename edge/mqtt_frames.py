"""Frames on their way to the broker: one at a time, as large as the link carries without holding up results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.frames import FrameStore, StoredFrame, jpeg_from_frame
from edge.mqtt_pace import FramePace
from edge.mqtt_session import Session
from edge.topics import JPEG
from edge.wire import frame_topic

_MARGIN_BYTES = 4096

_logger = logging.getLogger(__name__)


class FrameSender:
    """Sends unsent frames over one connection; `on_way` is the frame that is not acknowledged yet."""

    def __init__(
        self, session: Session, store: FrameStore | None, pace: FramePace, root: str, max_packet_bytes: int
    ) -> None:
        self.on_way: StoredFrame | None = None
        self._session = session
        self._store = store
        self._pace = pace
        self._root = root
        self._max_packet_bytes = max_packet_bytes
        self._packet_id = 0

    def send(self, all_results_sent: Callable[[], bool]) -> None:
        """Send the next frame, if there is one and it is due; asked once it is known, all results have to be sent.

        Raises:
            LinkError: the connection is over.
        """
        if self._store is None or self.on_way is not None or self._pace.due_in_s(time.monotonic()) > 0:
            return
        frame = self._store.next_unsent()
        if frame is None or not all_results_sent():
            return
        jpeg = _jpeg(frame, min(self._max_packet_bytes - _MARGIN_BYTES, self._pace.max_bytes))
        if jpeg is None:
            self._store.mark_sent(frame)
            return
        self.on_way = frame
        self._pace.sent(len(jpeg), time.monotonic())
        topic = f"{self._root}/{frame_topic(frame.result_id)}"
        self._packet_id = self._session.publish(topic, jpeg, retain=False, content_type=JPEG)

    def settle(self, packet_id: int, refusal: str | None) -> bool | None:
        """Take note of a PUBACK: whether the frame was accepted, or None if it belongs to another message."""
        if self.on_way is None or packet_id != self._packet_id:
            return None
        frame, self.on_way = self.on_way, None
        self._pace.acknowledged(time.monotonic())
        if refusal is not None:
            _logger.warning("the broker refused the frame of %s: %s", frame.result_id, refusal)
        if self._store is not None:
            self._store.mark_sent(frame)
        return refusal is None


def _jpeg(frame: StoredFrame, max_bytes: int) -> bytes | None:
    try:
        jpeg = jpeg_from_frame(frame, max_bytes)
    except (OSError, ValueError) as error:
        _logger.warning("frame %s cannot be published: %s", frame.path, error)
        return None
    if jpeg is None:
        _logger.warning("frame %s cannot be published: too large for the broker at any quality", frame.path)
    return jpeg
