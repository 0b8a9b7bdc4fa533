"""The packets in flight on one connection: sent, and not acknowledged yet."""

from __future__ import annotations

import time

from edge.contract.topics import COMMAND, JSON
from edge.frames.stored import StoredFrame
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Connection
from edge.mqtt.frame_sender import FrameSender
from edge.mqtt.refused_topics import RefusedTopics
from edge.outbox.outbox import StoredMessage

_OVERHEAD_BYTES = 64
"""What a packet has besides topic and payload, at most."""

SUBSCRIPTION = "cmd/+"
"""Stands for the subscription to commands among the names of topics."""

_UNKNOWN_PACKET_ID, _SUBSCRIPTION_ID = 0, -1


def packet_bytes(topic: str, payload: bytes) -> int:
    """The size of the packet with this message, at most."""
    return len(payload) + len(topic.encode()) + _OVERHEAD_BYTES


class Window:
    """What is in flight: messages of the outbox, other packets by the name of their topic, and a frame.

    `size` is how many packets may be in flight, and `retain` whether the broker retains messages. `exclusive` is True
    while nothing may be sent beside the packet in flight.
    """

    def __init__(
        self,
        connection: Connection,
        frames: FrameSender,
        topics: RefusedTopics,
        root: str,
        *,
        size: int,
        retain: bool,
    ) -> None:
        self.exclusive = False
        self._connection, self._frames, self._topics, self._root = connection, frames, topics, root
        self._size, self._retain = size, retain
        self._in_flight: dict[int, StoredMessage | str] = {}
        self._timer_start_s = time.monotonic()

    @property
    def packets(self) -> int:
        """Number of packets in flight."""
        return len(self._in_flight) + (self._frames.in_flight is not None)

    @property
    def frame(self) -> StoredFrame | None:
        """The frame in flight."""
        return self._frames.in_flight

    @property
    def only_a_frame(self) -> bool:
        """Whether nothing but perhaps a frame is in flight."""
        return not self._in_flight

    @property
    def messages(self) -> list[StoredMessage]:
        """Messages of the outbox in flight, but for one refused before and tried again."""
        sent = [message for message in self._in_flight.values() if isinstance(message, StoredMessage)]
        return [message for message in sent if message.refusal is None or message.replayed]

    @property
    def topic_names(self) -> list[str]:
        """Names of the other topics on which something is in flight."""
        names = [name for name in self._in_flight.values() if isinstance(name, str)]
        return [*names, self._frames.topic_name] if self._frames.in_flight else names

    def has_room(self, *, single_file: bool) -> bool:
        """Whether another packet may be sent; in single file, only if none is in flight."""
        return self.packets < (1 if single_file else self._size) and not (self.exclusive and self.packets)

    def is_free_for(self, name: str) -> bool:
        """Whether this topic does not rest, and does not have to wait until nothing else is in flight."""
        return self._topics.may_send(name, time.monotonic()) and not (self._topics.must_be_alone(name) and self.packets)

    def publish(
        self,
        topic: str,
        payload: bytes,
        sent: StoredMessage | str,
        *,
        retain: bool = False,
        correlation: bytes | None = None,
    ) -> None:
        """Send a message; `sent` is the message of the outbox or the name of the topic.

        Raises:
            LinkError: the connection ended.
        """
        self.start_timer()
        self.exclusive = isinstance(sent, str) and self._topics.must_be_alone(sent)
        self._in_flight[_UNKNOWN_PACKET_ID] = sent  # if the connection ends during the call, it may have been sent
        packet_id = self._connection.publish(
            topic, payload, retain=retain and self._retain, content_type=JSON, correlation=correlation
        )
        self._in_flight[packet_id] = self._in_flight.pop(_UNKNOWN_PACKET_ID)

    def subscribe(self) -> None:
        """Send the subscription to commands."""
        self.start_timer()
        self.exclusive = self._topics.must_be_alone(SUBSCRIPTION)
        self._in_flight[_SUBSCRIPTION_ID] = SUBSCRIPTION
        self._connection.subscribe(COMMAND.at(self._root, name="+"))

    def frame_sent(self) -> None:
        """A frame may have been sent."""
        self.exclusive |= self._frames.in_flight is not None and self._topics.must_be_alone(self._frames.topic_name)

    def take(self, packet_id: int) -> StoredMessage | str | None:
        """Remove the packet that was acknowledged; None if it is unknown."""
        return self._in_flight.pop(packet_id, None)

    def take_subscription(self) -> bool:
        """Remove the subscription; False if it was not in flight."""
        return self._in_flight.pop(_SUBSCRIPTION_ID, None) is not None

    def start_timer(self) -> None:
        """Start to wait for an answer, if nothing is in flight."""
        if not self.packets:
            self._timer_start_s = time.monotonic()

    def answered(self) -> None:
        """The broker acknowledged something."""
        self._timer_start_s = time.monotonic()

    def look_for_silence(self, timeout_s: float) -> bool:
        """Whether the broker left a subscription unanswered for too long, which is then no longer in flight.

        Raises:
            LinkError: it acknowledges nothing any more.
        """
        if not self.packets or time.monotonic() - self._timer_start_s <= timeout_s:
            return False
        if not self.take_subscription():
            raise LinkError("the broker acknowledges nothing any more")
        return True
