"""What is sent beside results and events over one connection: status, subscription, last result, replies, metrics."""

from __future__ import annotations

import logging
import time

from edge.contract.results import payload_below
from edge.contract.topics import RESULT_LAST, STATUS
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.best_effort import BestEffortMessage
from edge.mqtt.window import SUBSCRIPTION, Window, packet_bytes
from edge.outbox.outbox import StoredMessage

_logger = logging.getLogger(__name__)


class BesideResults:
    """Sends each of them only while its topic does not rest; the caller asks before whether there is room.

    Every method may raise a LinkError.
    """

    def __init__(self, window: Window, across: AcrossConnections, max_packet_bytes: int) -> None:
        self._window, self._topics, self._best_effort = window, across.topics, across.best_effort
        self._tally = across.tally
        self._root, self._max_packet_bytes = across.root, max_packet_bytes
        self._unsubscribed = self._status_missing = False
        self._held_back: BestEffortMessage | None = None
        self._copied: StoredMessage | None = None

    @property
    def status_due(self) -> bool:
        """Whether the status could not be published and can be tried again."""
        return self._status_missing and self._topics.may_send(STATUS.suffix, time.monotonic())

    def want_status(self) -> bool:
        """A status is to be published; returns whether its topic does not rest."""
        self._status_missing = True
        return self.status_due

    def send_status(self, payload: bytes) -> None:
        """Publish the retained status."""
        self._status_missing = False
        self._window.publish(STATUS.at(self._root), payload, STATUS.suffix, retain=True)

    def want_subscription(self) -> None:
        """Commands are to be subscribed to."""
        self._unsubscribed = True

    def subscribe(self) -> None:
        """Subscribe to commands, if that was not done yet."""
        if self._unsubscribed and self._window.is_free_for(SUBSCRIPTION):
            self._unsubscribed = False
            self._window.subscribe()

    def send_last_result(self) -> None:
        """Publish the retained copy of the newest acknowledged result, once nothing else is in flight."""
        newest = self._tally.unretained
        if newest is not None and self._window.only_a_frame and self._window.is_free_for(RESULT_LAST.suffix):
            payload = payload_below(newest.payload, self._root)
            self._window.publish(RESULT_LAST.at(self._root), payload, RESULT_LAST.suffix, retain=True)
            self._copied = newest

    def send_next(self) -> bool:
        """Send the next reply or metrics; False if there is none, or it has to wait until nothing else is in flight."""
        message = self._held_back or self._best_effort.next()
        self._held_back = None
        if message is None:
            return False
        name = message.topic.removeprefix(f"{self._root}/")
        if not self._topics.may_send(name, time.monotonic()):
            _logger.debug("a message on %s is dropped: the broker refuses the topic", message.topic)
        elif packet_bytes(message.topic, message.payload) > self._max_packet_bytes:
            _logger.warning("a message on %s is dropped: %d bytes", message.topic, len(message.payload))
        elif not self._window.is_free_for(name):
            self._held_back = message
            return False
        else:
            self._window.publish(message.topic, message.payload, name, correlation=message.correlation)
        return True

    def answered(self, name: str, refusal: str, *, busy: bool) -> None:
        """Handle the PUBACK of something that was sent on a topic; it is not sent again."""
        if name == RESULT_LAST.suffix and self._tally.unretained is self._copied:
            self._tally.unretained = None
        if busy:
            _logger.warning("the broker is too busy for a message on %s: %s", name, refusal)
        else:
            self.settle(name, refusal)

    def settle(self, name: str, refusal: str) -> None:
        """Record the broker's answer to something sent on a topic; "" is an acceptance."""
        if not refusal:
            self._topics.accepted(name)
            return
        self._topics.refused(name, refusal, time.monotonic())
        self._unsubscribed |= name == SUBSCRIPTION
        self._status_missing |= name == STATUS.suffix
