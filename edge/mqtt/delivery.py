"""One connection's window of unacknowledged messages: what is sent next, and what each PUBACK means.

`Delivery` lives as long as one connection; `publisher.py` has the thread that makes the connections.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from edge.contract.topics import COMMAND, JSON, RESULT_LAST, STATUS
from edge.fault_board import put_event
from edge.faults import FaultId
from edge.frames.files import StoredFrame
from edge.frames.store import FrameStore
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.backoff import Backoff
from edge.mqtt.best_effort import BestEffortMessage
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Acknowledged, Connected, Connection, Ended, Subscribed
from edge.mqtt.frame_sender import FrameSender
from edge.mqtt.result_replay import ResultReplay
from edge.outbox.outbox import MessageKind, Outbox, StoredMessage
from edge.outbox.refused_messages import Refusal, RefusedGroup, Returned

WINDOW = 20
"""Maximum number of messages in flight; a larger window was not faster."""
PUBACK_TIMEOUT_S = 10.0
BACKFILL = (b'"backfill":false', b'"backfill":true')
"""Replacement that marks a result as stored before this connection, or as sent again. No text value can contain these
bytes, because JSON escapes a quotation mark within a text."""

_TICK_S = 0.5
_PAGE = 200
_SUBSCRIPTION = "cmd/+"
_UNKNOWN_PACKET_ID, _SUBSCRIPTION_ID = 0, -1
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
        self._retry, self._topics = across.retry, across.topics
        self._window = min(WINDOW, limits.receive_maximum)
        self._max_packet_bytes = limits.maximum_packet_bytes
        self._retain = limits.retain_available
        self._frames = FrameSender(connection, frames, across.pace, across.root, self._max_packet_bytes, across.topics)
        self._in_flight: dict[int, StoredMessage | str] = {}
        """Every packet in flight but frames: a message of the outbox, or the name of the topic of another one."""
        self._exclusive = False
        self._reading_again = False
        self._unsubscribed = self._status_missing = False
        self._held_back: BestEffortMessage | None = None
        self._page: deque[StoredMessage] = deque()
        self._last_id = 0
        self._all_read = False
        self._newest: StoredMessage | None = None
        self._busy_backoff = Backoff()
        self._paused_until_s: float | None = None
        self._puback_timer_start_s = time.monotonic()
        outbox.flush(_FLUSH_S)  # acknowledgements of the connection before this one
        largest = self._max_packet_bytes - _PACKET_OVERHEAD_BYTES - len(f"{self._root}/result".encode())
        self._report_returned(outbox.refused.return_fitting(largest), "they were too large for the broker")
        across.topics.connected()
        across.retry.connected(time.monotonic())
        self._backfill_until_id = outbox.newest_id()
        self._replay = ResultReplay(outbox)

    @property
    def unfinished(self) -> bool:
        """Whether a message is unsent or in flight."""
        return bool(self._in_flight or self._page or self._outbox.unacknowledged(self._last_id, 1))

    @property
    def in_flight(self) -> list[StoredMessage]:
        """Messages of the outbox that were sent and not acknowledged, but for one refused before and tried again."""
        sent = [message for message in self._in_flight.values() if isinstance(message, StoredMessage)]
        return [message for message in sent if message.refusal is None or message.replayed]

    @property
    def topics_in_flight(self) -> list[str]:
        """Names of the other topics on which something was sent that is not acknowledged."""
        names = [name for name in self._in_flight.values() if isinstance(name, str)]
        return [*names, self._frames.topic_name] if self._frames.in_flight else names

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self._packets == 0

    @property
    def status_due(self) -> bool:
        """Whether the status could not be published and can be tried again."""
        return self._status_missing and self._topics.may_send(STATUS.suffix, time.monotonic())

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

        Order: the outbox, the retained copy of the last result, replies and metrics, replays, a refused message, then
        a frame.
        """
        if self._all_read or not self._may_send:
            self._wait()
        self._handle_occurrences()
        self._subscribe()
        self._send_all(self._next_message)
        if self._outbox_is_sent:
            self._send_last_result()
            self._send_best_effort()
            self._send_all(self._replay.next)
            if not self._in_flight:
                self._try_refused()
            if not self._in_flight:
                self._start_puback_timer()
                self._frames.send(self._all_results_sent)
                self._exclusive |= self._frames.in_flight is not None and self._topics.must_be_alone(
                    self._frames.topic_name
                )

    def stay_quiet(self, duration_s: float) -> None:
        """Send nothing for a while, to find out whether the broker closes the connection all the same."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            self._wait(until_s - time.monotonic())
            self._handle_occurrences()

    def subscribe(self) -> None:
        """Subscribe to the commands, now or when the topic has rested."""
        self._unsubscribed = True
        self._subscribe()

    def drain(self, timeout_s: float) -> bool:
        """Send nothing more and wait until everything is acknowledged; False after the timeout."""
        deadline_s = time.monotonic() + timeout_s
        while self._packets and time.monotonic() < deadline_s:
            self._wait()
            self._handle_occurrences()
        return self._packets == 0

    def publish_status(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the retained status and wait until everything is acknowledged; False after the timeout.

        While the topic rests, it does nothing and returns False.
        """
        self._status_missing = True
        deadline_s = time.monotonic() + timeout_s
        while not self._may_send_on(STATUS.suffix):
            if time.monotonic() >= deadline_s or not self.status_due:
                return False
            self._wait()
            self._handle_occurrences()
        self._status_missing = False
        self._publish(STATUS.at(self._root), payload, STATUS.suffix, retain=True)
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
        if self._paused_until_s is not None or self._reading_again or (self._exclusive and self._packets):
            return False
        return self._packets < (1 if self._poison_finder.send_alone_until_id else self._window)

    def _may_send_on(self, name: str) -> bool:
        alone = self._topics.must_be_alone(name)
        return self._may_send and self._topics.may_send(name, time.monotonic()) and not (alone and self._packets)

    @property
    def _outbox_is_sent(self) -> bool:
        return self._all_read and not self._page and self._may_send

    def _all_results_sent(self) -> bool:
        """Whether every message was written to the outbox and sent, so that a frame's own result was sent before it."""
        return self._outbox.flush(_COMMIT_S) and not self._outbox.unacknowledged(self._last_id, 1)

    def _wait(self, longest_s: float = _TICK_S) -> None:
        now_s = time.monotonic()
        if self._packets and now_s - self._puback_timer_start_s > PUBACK_TIMEOUT_S:
            if self._in_flight.pop(_SUBSCRIPTION_ID, None) is None:
                raise LinkError("the broker acknowledges nothing any more")
            self._settle_topic(_SUBSCRIPTION, "the broker does not answer the subscription")
        due_in_s = self._pace.due_in_s(now_s)
        self._outbox.wakeup.wait(max(0.0, min(due_in_s, longest_s, _TICK_S) if due_in_s > 0 else longest_s))
        self._outbox.wakeup.clear()

    def _publish(
        self,
        topic: str,
        payload: bytes,
        sent: StoredMessage | str,
        *,
        retain: bool = False,
        correlation: bytes | None = None,
    ) -> None:
        self._start_puback_timer()
        self._exclusive = isinstance(sent, str) and self._topics.must_be_alone(sent)
        self._in_flight[_UNKNOWN_PACKET_ID] = sent  # if the connection ends during the call, it may have been sent
        packet_id = self._connection.publish(
            topic, payload, retain=retain and self._retain, content_type=JSON, correlation=correlation
        )
        self._in_flight[packet_id] = self._in_flight.pop(_UNKNOWN_PACKET_ID)

    def _subscribe(self) -> None:
        name = _SUBSCRIPTION
        if self._unsubscribed and self._may_send_on(name):
            self._unsubscribed = False
            self._start_puback_timer()
            self._exclusive = self._topics.must_be_alone(name)
            self._in_flight[_SUBSCRIPTION_ID] = name
            self._connection.subscribe(COMMAND.at(self._root, name="+"))

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
            elif isinstance(occurrence, Subscribed) and self._in_flight.pop(_SUBSCRIPTION_ID, None) is not None:
                self._settle_topic(_SUBSCRIPTION, occurrence.refused)
        if acknowledged:
            self._outbox.acknowledge(acknowledged)
            self._tally.sent += len(acknowledged)
            self._busy_backoff.succeeded()
        if ended is not None:
            raise ended.error()
        if not self._in_flight:
            self._leave_pause_or_single_file()

    def _handle_puback(self, puback: Acknowledged, acknowledged: list[int]) -> None:
        refusal = puback.text if puback.reason_code >= _REFUSED else ""
        accepted = self._frames.handle_puback(puback.packet_id, refusal or None)
        if accepted is not None:
            self._tally.frames_sent += accepted
            if puback.reason_code not in _BUSY:
                self._settle_topic(self._frames.topic_name, refusal)
            return
        sent = self._in_flight.pop(puback.packet_id, None)
        if sent is None:
            return
        if isinstance(sent, str):
            if puback.reason_code in _BUSY:
                _logger.warning("the broker is too busy for a message on %s: %s", sent, puback.text)
            else:
                self._settle_topic(sent, refusal)
        elif puback.reason_code in _BUSY:
            self._retry.tried(time.monotonic(), accepted=False)
            self._pause(sent, puback.text)
        elif sent.refusal is not None and not sent.replayed:
            self._handle_retried(sent, accepted=not refusal)
        elif refusal:
            if not sent.replayed:
                self._retry.answered(sent.kind, time.monotonic(), accepted=False)
            self.give_up(sent, f"{Refusal.ANSWER.value}{refusal}")
        elif sent.replayed:
            if sent.refusal is not None:
                self._outbox.refused.accept(sent.message_id)
            self._replay.mark_done(sent)
        else:
            self._retry.answered(sent.kind, time.monotonic(), accepted=True)
            acknowledged.append(sent.message_id)
            if sent.seq is not None and sent.seq > self._tally.newest_seq:
                self._tally.newest_seq = sent.seq
                self._newest = sent

    def _handle_retried(self, message: StoredMessage, *, accepted: bool) -> None:
        """The broker answered to a message that it had refused before; after an acceptance its whole group returns."""
        group = self._retry.tried(time.monotonic(), accepted=accepted)
        if not accepted:
            return
        self._outbox.refused.accept(message.message_id)
        self._outbox.flush(_FLUSH_S)
        rest = self._outbox.refused.return_group(group) if group is not None else Returned(0, 0)
        self._backfill_until_id = max(self._backfill_until_id, rest.last_id)
        self._report_returned(Returned(rest.count + 1, rest.last_id), message.refusal or "", group)
        self._reading_again = rest.count > 0

    def _report_returned(self, returned: Returned, reason: str, group: RefusedGroup | None = None) -> None:
        if not returned.count:
            return
        self._outbox.flush(_FLUSH_S)
        kind = "message" if group is None else group.kind
        text = f"{returned.count} {kind}{'' if returned.count == 1 else 's'} set aside; the reason was: {reason}"
        _logger.info("the broker accepts messages again that it had refused: %s", text)
        put_event(self._outbox, self._device, FaultId.MESSAGES_RETURNED, text)

    def _settle_topic(self, name: str, refusal: str) -> None:
        """Record the broker's answer to something sent on a topic beside results and events; "" is an acceptance."""
        if not refusal:
            self._topics.accepted(name)
            return
        self._topics.refused(name, refusal, time.monotonic())
        self._unsubscribed |= name == _SUBSCRIPTION
        self._status_missing |= name == STATUS.suffix

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
        if self._paused_until_s is not None or self._reading_again:
            if self._paused_until_s is not None and time.monotonic() < self._paused_until_s:
                return
            self._paused_until_s, self._reading_again = None, False
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
            self.give_up(message, f"{len(message.payload)}{Refusal.TOO_LARGE.value}{self._max_packet_bytes}")
            return
        is_backfill = message.replayed or message.refusal is not None or message.message_id <= self._backfill_until_id
        payload = message.payload.replace(*BACKFILL, 1) if is_backfill else message.payload
        self._publish(topic, payload, message)

    def _next_message(self) -> StoredMessage | None:
        if not self._page:
            self._page.extend(self._outbox.unacknowledged(self._last_id, _PAGE))
            self._all_read = not self._page
        if not self._page:
            return None
        message = self._page.popleft()
        self._last_id = message.message_id
        return message

    def _send_last_result(self) -> None:
        """Publish the retained copy of the newest acknowledged result, once nothing else is in flight."""
        if self._newest is not None and not self._in_flight and self._may_send_on(RESULT_LAST.suffix):
            newest, self._newest = self._newest, None
            self._publish(RESULT_LAST.at(self._root), newest.payload, RESULT_LAST.suffix, retain=True)

    def _send_best_effort(self) -> None:
        while self._may_send and (message := self._held_back or self._best_effort.next()) is not None:
            self._held_back = None
            name = message.topic.removeprefix(f"{self._root}/")
            if not self._topics.may_send(name, time.monotonic()):
                _logger.debug("a message on %s is dropped: the broker refuses the topic", message.topic)
            elif len(message.payload) + len(message.topic) + _PACKET_OVERHEAD_BYTES > self._max_packet_bytes:
                _logger.warning("a message on %s is dropped: %d bytes", message.topic, len(message.payload))
            elif not self._may_send_on(name):  # it has to wait until nothing else is in flight
                self._held_back = message
                return
            else:
                self._publish(message.topic, message.payload, name, correlation=message.correlation)

    def _try_refused(self) -> None:
        """Send one message again that the broker refused before, if one is due."""
        message = self._retry.next(time.monotonic())
        if message is not None:
            self._send(message)
            self._exclusive = True
