"""One connection's window of unacknowledged messages: what is sent next, and what each PUBACK means.

`Delivery` lives as long as one connection; `publisher.py` has the thread that makes the connections.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable

from edge.contract.topics import JSON, RESULT_LAST, STATUS
from edge.fault_board import put_event
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.frames.stored import StoredFrame
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.backoff import Backoff
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Acknowledged, Connected, Connection, Ended, Subscribed
from edge.mqtt.frame_sender import FrameSender
from edge.mqtt.result_replay import ResultReplay
from edge.outbox.outbox import MessageKind, Outbox, StoredMessage

WINDOW = 20
"""Maximum number of messages in flight; a larger window was not faster."""
PUBACK_TIMEOUT_S = 10.0
BACKFILL = (b'"backfill":false', b'"backfill":true')
"""Replacement that marks a result as stored before this connection, or as sent again. No text value can contain these
bytes, because JSON escapes a quotation mark within a text."""

_TICK_S = 0.5
_PAGE = 200
_UNKNOWN_PACKET_ID = 0
_REFUSED = 0x80
_BUSY = frozenset({0x89, 0x91, 0x97})
"""Temporary refusals: server busy, packet identifier in use, quota exceeded."""
_PACKET_OVERHEAD_BYTES = 64
_FLUSH_S = 2.0
_COMMIT_S = 0.1

_logger = logging.getLogger(__name__)


class Delivery:
    """Sends the outbox over one connection, starting at the oldest unacknowledged message.

    Every method may raise a LinkError: the connection ended.
    """

    def __init__(
        self,
        connection: Connection,
        limits: Connected,
        outbox: Outbox,
        frames: FrameStore | None,
        across: AcrossConnections,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._root, self._device, self._tally = across.root, across.device, across.tally
        self._poison_finder, self._pace, self._best_effort = across.poison_finder, across.pace, across.best_effort
        self._window = min(WINDOW, limits.receive_maximum)
        self._max_packet_bytes = limits.maximum_packet_bytes
        self._frames = FrameSender(connection, frames, across.pace, across.root, self._max_packet_bytes)
        self._in_flight: dict[int, StoredMessage | None] = {}
        self._page: deque[StoredMessage] = deque()
        self._last_id = 0
        self._all_read = False
        self._newest: StoredMessage | None = None
        self._busy_backoff = Backoff()
        self._paused_until_s: float | None = None
        self._puback_timer_start_s = time.monotonic()
        outbox.flush(_FLUSH_S)  # acknowledgements of the connection before this one
        self._backfill_until_id = outbox.newest_id()
        self._replay = ResultReplay(outbox)

    @property
    def unfinished(self) -> bool:
        """Whether a message is unsent or in flight."""
        return bool(self._in_flight or self._page or self._unsent(1))

    @property
    def in_flight(self) -> list[StoredMessage]:
        """Messages of the outbox that were sent and are not acknowledged."""
        return [message for message in self._in_flight.values() if message is not None]

    @property
    def frame_in_flight(self) -> StoredFrame | None:
        """The frame that was sent and is not acknowledged."""
        return self._frames.in_flight

    @property
    def alone(self) -> bool:
        """Whether exactly one packet is in flight."""
        return self._packets == 1

    def step(self) -> None:
        """Wait for an occurrence or a new message, handle PUBACKs, and fill the window.

        Order: the outbox, the retained copy of the last result, replies and metrics, replays, then a frame.
        """
        if self._all_read or not self._may_send:
            self._wait()
        self._handle_occurrences()
        self._send_all(self._next_message)
        if self._outbox_is_sent:
            self._send_last_result()
            self._send_best_effort()
            self._send_all(self._replay.next)
            if not self._in_flight:
                self._start_puback_timer()
                self._frames.send(self._all_results_sent)

    def drain(self, timeout_s: float) -> bool:
        """Send nothing more and wait until everything is acknowledged; False after the timeout."""
        deadline_s = time.monotonic() + timeout_s
        while self._packets and time.monotonic() < deadline_s:
            self._wait()
            self._handle_occurrences()
        return self._packets == 0

    def publish_status(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the retained status and wait until everything is acknowledged; False after the timeout."""
        deadline_s = time.monotonic() + timeout_s
        while not self._may_send:
            if time.monotonic() >= deadline_s:
                return False
            self._wait()
            self._handle_occurrences()
        self._publish(STATUS.at(self._root), payload, None, retain=True)
        return self.drain(deadline_s - time.monotonic())

    def give_up(self, message: StoredMessage, reason: str) -> None:
        """Quarantine a message and publish an event about it; a replayed result is only logged and skipped."""
        if message.replayed:
            _logger.warning("result %s is not sent again: %s", message.seq, reason)
            self._replay.mark_done(message)
            return
        self._outbox.quarantine(message.message_id, reason)
        self._tally.quarantined += 1
        what = f"result {message.seq}" if message.kind is MessageKind.RESULT else f"event {message.message_id}"
        _logger.error("%s is quarantined: %s", what, reason)
        if message.kind is MessageKind.RESULT:  # an event about a refused event would be refused too, and so on
            put_event(self._outbox, self._device, FaultId.MESSAGE_QUARANTINED, f"{what}: {reason}")

    @property
    def _packets(self) -> int:
        return len(self._in_flight) + (self._frames.in_flight is not None)

    @property
    def _may_send(self) -> bool:
        if self._paused_until_s is not None:
            return False
        return self._packets < (1 if self._poison_finder.send_alone_until_id else self._window)

    @property
    def _outbox_is_sent(self) -> bool:
        return self._all_read and not self._page and self._may_send

    def _all_results_sent(self) -> bool:
        """Whether every message was written to the outbox and sent, so that a frame's own result was sent before it."""
        return self._outbox.flush(_COMMIT_S) and not self._unsent(1)

    def _unsent(self, limit: int) -> list[StoredMessage]:
        """The next messages; none from a damaged database: the program stops then, and this connection tells it."""
        try:
            return self._outbox.unacknowledged(self._last_id, limit)
        except sqlite3.DatabaseError:
            return []

    def _wait(self) -> None:
        now_s = time.monotonic()
        if self._packets and now_s - self._puback_timer_start_s > PUBACK_TIMEOUT_S:
            raise LinkError("the broker acknowledges nothing any more")
        due_in_s = self._pace.due_in_s(now_s)
        self._outbox.wakeup.wait(min(due_in_s, _TICK_S) if due_in_s > 0 else _TICK_S)
        self._outbox.wakeup.clear()

    def _publish(
        self,
        topic: str,
        payload: bytes,
        message: StoredMessage | None,
        *,
        retain: bool = False,
        correlation: bytes | None = None,
    ) -> None:
        self._start_puback_timer()
        self._in_flight[_UNKNOWN_PACKET_ID] = message  # if the connection ends during the call, it may have been sent
        packet_id = self._connection.publish(topic, payload, retain=retain, content_type=JSON, correlation=correlation)
        self._in_flight[packet_id] = self._in_flight.pop(_UNKNOWN_PACKET_ID)

    def _start_puback_timer(self) -> None:
        if not self._packets:
            self._puback_timer_start_s = time.monotonic()

    def _handle_occurrences(self) -> None:
        acknowledged: list[int] = []
        ended: Ended | None = None
        for occurrence in self._connection.occurrences():
            if isinstance(occurrence, Acknowledged):
                self._puback_timer_start_s = time.monotonic()
                self._handle_puback(occurrence, acknowledged)
            elif isinstance(occurrence, Ended):
                ended = ended or occurrence
            elif isinstance(occurrence, Subscribed) and occurrence.refused:
                _logger.warning("the broker refuses the subscription to commands: %s", occurrence.refused)
        if acknowledged:
            self._outbox.acknowledge(acknowledged)
            self._tally.sent += len(acknowledged)
            self._busy_backoff.succeeded()
        if ended is not None:
            raise LinkError(ended.text, cut_off=ended.cut_off)
        if not self._in_flight:
            self._leave_pause_or_single_file()

    def _handle_puback(self, puback: Acknowledged, acknowledged: list[int]) -> None:
        accepted = self._frames.handle_puback(puback.packet_id, puback.text if puback.reason_code >= _REFUSED else None)
        if accepted is not None:
            self._tally.frames_sent += accepted
            return
        message = self._in_flight.pop(puback.packet_id, None)
        if puback.reason_code in _BUSY and message is not None:
            self._pause(message, puback.text)
        elif puback.reason_code >= _REFUSED:
            if message is None:
                _logger.warning("the broker refused a status, reply, metrics or result/last: %s", puback.text)
            else:
                self.give_up(message, f"the broker refused it: {puback.text}")
        elif message is not None and message.replayed:
            self._replay.mark_done(message)
        elif message is not None:
            acknowledged.append(message.message_id)
            if message.seq is not None and message.seq > self._tally.newest_seq:
                self._tally.newest_seq = message.seq
                self._newest = message

    def _pause(self, message: StoredMessage, reason: str) -> None:
        """Stop sending for a moment, then resume at the message that the busy broker refused."""
        if self._paused_until_s is None:
            pause_s = self._busy_backoff.pause_s()
            _logger.warning("the broker is too busy (%s); sending again in %.1f s", reason, pause_s)
            self._paused_until_s = time.monotonic() + pause_s
        self._poison_finder.send_alone_until_id = max(
            self._poison_finder.send_alone_until_id, self._last_id, message.message_id
        )

    def _leave_pause_or_single_file(self) -> None:
        """With nothing in flight: end a pause that is over, or the sending of one message at a time."""
        if self._paused_until_s is not None:
            if time.monotonic() < self._paused_until_s:
                return
            self._paused_until_s = None
            self._outbox.flush(_FLUSH_S)  # so that acknowledged messages are not read again
            self._page.clear()
            self._last_id, self._all_read = 0, False
        elif self._last_id >= self._poison_finder.send_alone_until_id:
            self._poison_finder.all_suspects_done()

    def _send_all(self, next_message: Callable[[], StoredMessage | None]) -> None:
        while self._may_send and (message := next_message()) is not None:
            self._send(message)

    def _send(self, message: StoredMessage) -> None:
        topic = f"{self._root}/{message.topic}"
        if len(message.payload) + len(topic.encode()) + _PACKET_OVERHEAD_BYTES > self._max_packet_bytes:
            self.give_up(
                message, f"{len(message.payload)} bytes; the broker accepts packets of {self._max_packet_bytes}"
            )
            return
        is_backfill = message.replayed or message.message_id <= self._backfill_until_id
        payload = message.payload.replace(*BACKFILL, 1) if is_backfill else message.payload
        self._publish(topic, payload, message)

    def _next_message(self) -> StoredMessage | None:
        if not self._page:
            self._page.extend(self._unsent(_PAGE))
            self._all_read = not self._page
        if not self._page:
            return None
        message = self._page.popleft()
        self._last_id = message.message_id
        return message

    def _send_last_result(self) -> None:
        """Publish the retained copy of the newest acknowledged result, once nothing else is in flight."""
        if self._newest is not None and not self._in_flight:
            newest, self._newest = self._newest, None
            self._publish(RESULT_LAST.at(self._root), newest.payload, None, retain=True)

    def _send_best_effort(self) -> None:
        while self._may_send and (message := self._best_effort.next()) is not None:
            if len(message.payload) + len(message.topic) + _PACKET_OVERHEAD_BYTES > self._max_packet_bytes:
                _logger.warning("a message on %s is dropped: %d bytes", message.topic, len(message.payload))
                continue
            self._publish(message.topic, message.payload, None, correlation=message.correlation)
