"""One connection's window of unacknowledged messages: what is sent next, and what each PUBACK means.

`Delivery` lives as long as one connection; `publisher.py` has the thread that makes the connections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.contract.results import payload_below
from edge.contract.topics import RESULT, STATUS
from edge.frames.store import FrameStore
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.backoff import Backoff
from edge.mqtt.beside_results import BesideResults
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Connection
from edge.mqtt.frame_sender import FrameSender
from edge.mqtt.occurrences import Acknowledged, Connected, Ended, Subscribed
from edge.mqtt.result_replay import ResultReplay
from edge.mqtt.set_aside import SetAside
from edge.mqtt.unsent import FLUSH_S, UnsentMessages
from edge.mqtt.window import SUBSCRIPTION, Window, packet_bytes
from edge.outbox.outbox import Outbox, StoredMessage
from edge.outbox.refused_messages import Refusal

WINDOW = 20
"""Maximum number of messages in flight; a larger window was not faster."""
PUBACK_TIMEOUT_S = 10.0
BACKFILL = (b'"backfill":false', b'"backfill":true')
"""Replacement that marks a result as stored before this connection, or as sent again. No text value can contain these
bytes, because JSON escapes a quotation mark within a text."""

_TICK_S = 0.5
_REFUSED = 0x80
_BUSY = frozenset({0x89, 0x91, 0x97})
"""Temporary refusals: server busy, packet identifier in use, quota exceeded."""
_COMMIT_S = 0.1

_logger = logging.getLogger(__name__)


class Delivery:
    """Sends the outbox over one connection, starting at the oldest unacknowledged message.

    `window` is what is in flight. Every method may raise a LinkError: the connection ended.
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
        self._poison_finder, self._pace, self._retry = across.poison_finder, across.pace, across.retry
        self._max_packet_bytes = limits.maximum_packet_bytes
        self._frames = FrameSender(connection, frames, across.pace, across.root, self._max_packet_bytes, across.topics)
        self.window = Window(
            connection,
            self._frames,
            across.topics,
            across.root,
            size=min(WINDOW, limits.receive_maximum),
            retain=limits.retain_available,
        )
        self._beside = BesideResults(self.window, across, self._max_packet_bytes)
        self._reading_again = False
        self._unsent = UnsentMessages(outbox)
        self._busy_backoff = Backoff()
        self._paused_until_s: float | None = None
        self._replay = ResultReplay(outbox)
        self._set_aside = SetAside(outbox, across, self._replay)
        outbox.flush(FLUSH_S)  # acknowledgements of the connection before this one
        self._set_aside.return_fitting(self._max_packet_bytes - packet_bytes(RESULT.at(self._root), b""))
        across.topics.connected()
        across.retry.connected(time.monotonic())
        self._backfill_until_id = outbox.newest_id()

    @property
    def unfinished(self) -> bool:
        """Whether a message is unsent or in flight."""
        return not self.window.only_a_frame or self._unsent.any_left()

    @property
    def status_due(self) -> bool:
        """Whether the status could not be published and can be tried again."""
        return self._beside.status_due

    def step(self) -> None:
        """Wait for an occurrence or a new message, handle PUBACKs, and fill the window.

        Order: the outbox, the retained copy of the last result, replies and metrics, replays, a refused message, then
        a frame.
        """
        if self._unsent.all_read or not self._may_send:
            self._wait()
        self._handle_occurrences()
        if self._may_send:
            self._beside.subscribe()
        self._send_all(self._unsent.next)
        if self._outbox_is_sent:
            self._beside.send_last_result()
            while self._may_send and self._beside.send_next():
                pass
            self._send_all(self._replay.next)
            if not self.window.packets:
                self._try_refused()
            if self.window.only_a_frame:
                self.window.start_timer()
                self._frames.send(self._all_results_sent)
                self.window.frame_sent()

    def stay_quiet(self, duration_s: float) -> None:
        """Send nothing for a while, to find out whether the broker closes the connection all the same."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            self._wait(until_s - time.monotonic())
            self._handle_occurrences()

    def subscribe(self) -> None:
        """Subscribe to the commands, now or when the topic has rested."""
        self._beside.want_subscription()
        if self._may_send:
            self._beside.subscribe()

    def drain(self, timeout_s: float) -> bool:
        """Send nothing more and wait until everything is acknowledged; False after the timeout."""
        deadline_s = time.monotonic() + timeout_s
        while self.window.packets and time.monotonic() < deadline_s:
            self._wait()
            self._handle_occurrences()
        return self.window.packets == 0

    def publish_status(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the retained status and wait until everything is acknowledged; False after the timeout.

        While the topic rests, it does nothing and returns False.
        """
        if not self._beside.want_status():
            return False
        deadline_s = time.monotonic() + timeout_s
        while not (self._may_send and self.window.is_free_for(STATUS.suffix)):
            if time.monotonic() >= deadline_s:
                return False
            self._wait()
            self._handle_occurrences()
        self._beside.send_status(payload)
        return self.drain(deadline_s - time.monotonic())

    def finish(self, error: LinkError) -> LinkError:
        """The connection ended: handle the PUBACKs that came before; returns its own reason if known, else `error`."""
        try:
            self._handle_occurrences()
        except LinkError as reason:
            return reason
        return error

    def give_up(self, message: StoredMessage, reason: str) -> None:
        """Quarantine a message and publish an event about it; one of a replay is only logged and skipped."""
        self._set_aside.give_up(message, reason)

    @property
    def _may_send(self) -> bool:
        if self._paused_until_s is not None or self._reading_again:
            return False
        return self.window.has_room(single_file=bool(self._poison_finder.send_alone_until_id))

    @property
    def _outbox_is_sent(self) -> bool:
        return self._unsent.all_read and self._may_send

    def _all_results_sent(self) -> bool:
        """Whether every message was written to the outbox and sent, so that a frame's own result was sent before it."""
        return self._outbox.flush(_COMMIT_S) and not self._unsent.any_left()

    def _wait(self, longest_s: float = _TICK_S) -> None:
        if self.window.look_for_silence(PUBACK_TIMEOUT_S):
            self._beside.settle(SUBSCRIPTION, "the broker does not answer the subscription")
        due_in_s = self._pace.due_in_s(time.monotonic())
        self._outbox.wakeup.wait(max(0.0, min(due_in_s, longest_s) if due_in_s > 0 else longest_s))
        self._outbox.wakeup.clear()

    def _handle_occurrences(self) -> None:
        acknowledged: list[int] = []
        ended: Ended | None = None
        for occurrence in self._connection.occurrences():
            if isinstance(occurrence, Acknowledged):
                self.window.answered()
                self._handle_puback(occurrence, acknowledged)
            elif isinstance(occurrence, Ended):
                ended = ended or occurrence
            elif isinstance(occurrence, Subscribed) and self.window.take_subscription():
                self._beside.settle(SUBSCRIPTION, occurrence.refused)
        if acknowledged:
            self._outbox.acknowledge(acknowledged)
            self._tally.sent += len(acknowledged)
            self._busy_backoff.succeeded()
        if ended is not None:
            raise ended.error()
        if self.window.only_a_frame:
            self._leave_pause_or_single_file()

    def _handle_puback(self, puback: Acknowledged, acknowledged: list[int]) -> None:
        refusal = puback.text if puback.reason_code >= _REFUSED else ""
        accepted = self._frames.handle_puback(puback.packet_id, refusal or None)
        if accepted is not None:
            self._tally.frames_sent += accepted
            if puback.reason_code not in _BUSY:
                self._beside.settle(self._frames.topic_name, refusal)
            return
        sent = self.window.take(puback.packet_id)
        if isinstance(sent, str):
            self._beside.answered(sent, refusal, busy=puback.reason_code in _BUSY)
        elif sent is not None and puback.reason_code in _BUSY:
            self._retry.tried(time.monotonic(), accepted=False)
            self._pause(sent, puback.text)
        elif sent is not None and sent.refusal is not None and not sent.replayed:
            returned = self._set_aside.answered(sent, accepted=not refusal)
            self._backfill_until_id = max(self._backfill_until_id, returned.last_id)
            self._reading_again = returned.count > 0
        elif sent is not None and sent.replayed:
            self._settle_replayed(sent, refusal)
        elif sent is not None:
            self._settle(sent, refusal, acknowledged)

    def _settle(self, message: StoredMessage, refusal: str, acknowledged: list[int]) -> None:
        """Record the broker's answer to a new message; "" is an acceptance."""
        self._retry.answered(message.kind, time.monotonic(), accepted=not refusal)
        if refusal:
            self.give_up(message, f"{Refusal.ANSWER.value}{refusal}")
            return
        acknowledged.append(message.message_id)
        if message.seq is not None and message.seq > self._tally.newest_seq:
            self._tally.newest_seq = message.seq
            self._tally.unretained = message

    def _settle_replayed(self, message: StoredMessage, refusal: str) -> None:
        if refusal:
            self.give_up(message, f"{Refusal.ANSWER.value}{refusal}")
            return
        if message.refusal is not None:
            self._outbox.refused.accept(message.message_id)
        self._replay.mark_done(message)

    def _pause(self, message: StoredMessage, reason: str) -> None:
        """Stop sending for a moment, then resume at the message that the busy broker refused."""
        if self._paused_until_s is None:
            pause_s = self._busy_backoff.pause_s()
            _logger.warning("the broker is too busy (%s); sending again in %.1f s", reason, pause_s)
            self._paused_until_s = time.monotonic() + pause_s
        self._poison_finder.send_alone_until_id = max(
            self._poison_finder.send_alone_until_id, self._unsent.last_id, message.message_id
        )

    def _leave_pause_or_single_file(self) -> None:
        """With nothing in flight: end a pause that is over, or the sending of one message at a time."""
        if self._paused_until_s is not None or self._reading_again:
            if self._paused_until_s is not None and time.monotonic() < self._paused_until_s:
                return
            self._paused_until_s, self._reading_again = None, False
            self._unsent.start_again()
        elif self._unsent.last_id >= self._poison_finder.send_alone_until_id:
            self._poison_finder.all_suspects_done()

    def _send_all(self, next_message: Callable[[], StoredMessage | None]) -> None:
        while self._may_send and (message := next_message()) is not None:
            self._send(message)

    def _send(self, message: StoredMessage) -> None:
        topic, payload = f"{self._root}/{message.topic}", payload_below(message.payload, self._root)
        if packet_bytes(topic, payload) > self._max_packet_bytes:
            reason = f"{len(payload)}{Refusal.TOO_LARGE.value}{self._max_packet_bytes}"
            if message.refusal is not None and not message.replayed:
                self._set_aside.too_large(message, reason)
            else:
                self.give_up(message, reason)
            return
        if message.replayed or message.refusal is not None or message.message_id <= self._backfill_until_id:
            payload = payload.replace(*BACKFILL, 1)
        self.window.publish(topic, payload, message)

    def _try_refused(self) -> None:
        """Send one message again that the broker refused before, if one is due."""
        message = self._retry.next(time.monotonic())
        if message is not None:
            self._send(message)
            self.window.exclusive = True
