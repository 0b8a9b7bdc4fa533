"""What is on its way over one connection: the window, the order, what becomes of each PUBACK."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from edge.faults import FaultId
from edge.frames import FrameStore, StoredFrame, jpeg_from_frame
from edge.mqtt_session import Acknowledged, Connected, Ended, LinkError, Session
from edge.outbox import MessageKind, Outbox, StoredMessage
from edge.payloads import bytes_from_payload, event_from_fault
from edge.pipeline import utc_now
from edge.topics import JPEG, JSON, STATUS
from edge.wire import frame_topic

WINDOW = 20
"""Unacknowledged messages on the way; a larger window is no faster."""
MAX_FRAME_BYTES = 900_000
"""Largest JPEG, below what common brokers take."""
PUBACK_TIMEOUT_S = 20.0

_TICK_S = 0.5
_PAGE = 200
_REFUSED = 0x80
_PACKET_OVERHEAD_BYTES = 64
_FRAME_MARGIN_BYTES = 4096
_FLUSH_S = 2.0

_logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """What was delivered since the start; written by the sending thread alone."""

    sent: int = 0
    quarantined: int = 0
    frames_sent: int = 0


class Delivery:
    """Sends from the outbox over one connection, from the oldest unacknowledged message on.

    `root` is the root of the device's topics, `frame` the frame that is on its way. Every method may raise a
    LinkError: the connection is over.
    """

    def __init__(
        self,
        session: Session,
        limits: Connected,
        outbox: Outbox,
        frames: FrameStore | None,
        *,
        root: str,
        device: str,
        tally: Tally,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._frames = frames
        self._root = root
        self._device = device
        self._tally = tally
        self._window = min(WINDOW, limits.receive_maximum)
        self._max_packet_bytes = limits.maximum_packet_bytes
        self._in_flight: dict[int, StoredMessage | None] = {}
        self.frame: StoredFrame | None = None
        self._frame_packet_id = 0
        self._page: deque[StoredMessage] = deque()
        self._last_id = 0
        self._all_read = False
        self._progress_monotonic_s = time.monotonic()
        outbox.flush(_FLUSH_S)  # acknowledgements of the connection before this one

    @property
    def unfinished(self) -> bool:
        """Whether a message waits, or is on its way."""
        return bool(self._in_flight or self._page or self._outbox.unacknowledged(self._last_id, 1))

    def step(self) -> None:
        """Wait until something happens, settle what was acknowledged, send what there is room for."""
        if self._all_read or not self._has_room:
            self._wait()
        self._settle()
        self._send_messages()
        self._send_frame()

    def publish_status(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the retained status and wait until everything is acknowledged; False when that took too long."""
        deadline = time.monotonic() + timeout_s
        while not self._has_room:
            if time.monotonic() >= deadline:
                return False
            self._wait()
            self._settle()
        packet_id = self._session.publish(f"{self._root}/{STATUS.suffix}", payload, retain=True, content_type=JSON)
        self._in_flight[packet_id] = None
        while (self._in_flight or self.frame) and time.monotonic() < deadline:
            self._wait()
            self._settle()
        return not self._in_flight

    @property
    def _has_room(self) -> bool:
        return len(self._in_flight) + (self.frame is not None) < self._window

    def _wait(self) -> None:
        if (self._in_flight or self.frame) and time.monotonic() - self._progress_monotonic_s > PUBACK_TIMEOUT_S:
            raise LinkError("the broker acknowledges nothing any more")
        self._outbox.wakeup.wait(_TICK_S)
        self._outbox.wakeup.clear()

    def _settle(self) -> None:
        acknowledged: list[int] = []
        ended: Ended | None = None
        for occurrence in self._session.occurrences():
            if isinstance(occurrence, Acknowledged):
                self._progress_monotonic_s = time.monotonic()
                self._settle_one(occurrence, acknowledged)
            elif isinstance(occurrence, Ended):
                ended = occurrence
        if acknowledged:
            self._outbox.acknowledge(acknowledged)
            self._tally.sent += len(acknowledged)
        if ended is not None:
            raise LinkError(ended.text)

    def _settle_one(self, puback: Acknowledged, acknowledged: list[int]) -> None:
        if self.frame is not None and self._frame_packet_id == puback.packet_id:
            self._settle_frame(self.frame, puback)
            return
        message = self._in_flight.pop(puback.packet_id, None)
        if puback.reason_code >= _REFUSED:
            if message is None:
                _logger.warning("the broker refused the status: %s", puback.text)
            else:
                self._quarantine(message, f"the broker refused it: {puback.text}")
        elif message is not None:
            acknowledged.append(message.message_id)

    def _settle_frame(self, frame: StoredFrame, puback: Acknowledged) -> None:
        self.frame = None
        if puback.reason_code >= _REFUSED:
            _logger.warning("the broker refused the frame of %s: %s", frame.result_id, puback.text)
        else:
            self._tally.frames_sent += 1
        if self._frames is not None:
            self._frames.mark_sent(frame)

    def _send_messages(self) -> None:
        while self._has_room and (message := self._next_message()) is not None:
            topic = f"{self._root}/{message.topic}"
            if len(message.payload) + len(topic.encode()) + _PACKET_OVERHEAD_BYTES > self._max_packet_bytes:
                limit = self._max_packet_bytes
                self._quarantine(message, f"{len(message.payload)} bytes; the broker takes packets of {limit}")
                continue
            if not self._in_flight:
                self._progress_monotonic_s = time.monotonic()
            packet_id = self._session.publish(topic, message.payload, retain=False, content_type=JSON)
            self._in_flight[packet_id] = message

    def _next_message(self) -> StoredMessage | None:
        if not self._page:
            self._page.extend(self._outbox.unacknowledged(self._last_id, _PAGE))
            self._all_read = not self._page
        if not self._page:
            return None
        message = self._page.popleft()
        self._last_id = message.message_id
        return message

    def _quarantine(self, message: StoredMessage, reason: str) -> None:
        self._outbox.quarantine(message.message_id, reason)
        self._tally.quarantined += 1
        what = f"result {message.seq}" if message.kind is MessageKind.RESULT else f"event {message.message_id}"
        _logger.error("%s is quarantined: %s", what, reason)
        if message.kind is MessageKind.RESULT:  # an event about a refused event would be refused too, and so on
            event = event_from_fault(
                FaultId.MESSAGE_QUARANTINED,
                f"{what}: {reason}",
                device=self._device,
                epoch=self._outbox.epoch,
                created_at_utc=utc_now(),
            )
            self._outbox.put_event(bytes_from_payload(event))

    def _send_frame(self) -> None:
        """One frame at a time, and only when no message waits."""
        if self._frames is None or self.frame is not None or self._page or not self._all_read or not self._has_room:
            return
        frame = self._frames.next_unsent()
        if frame is None:
            return
        jpeg = _jpeg(frame, min(self._max_packet_bytes, MAX_FRAME_BYTES) - _FRAME_MARGIN_BYTES)
        if jpeg is None:
            self._frames.mark_sent(frame)
            return
        topic = f"{self._root}/{frame_topic(frame.result_id)}"
        self.frame = frame
        self._frame_packet_id = self._session.publish(topic, jpeg, retain=False, content_type=JPEG)


def _jpeg(frame: StoredFrame, max_bytes: int) -> bytes | None:
    try:
        jpeg = jpeg_from_frame(frame, max_bytes)
    except (OSError, ValueError) as error:
        _logger.warning("frame %s cannot be published: %s", frame.path, error)
        return None
    if jpeg is None:
        _logger.warning("frame %s cannot be published: too large for the broker at any quality", frame.path)
    return jpeg
