"""A broker whose answers a test controls: late or refused CONNACK, limits, withheld or negative PUBACKs.

It implements just enough MQTT 5 (OASIS, 2019) for a publisher, and for the first SUBSCRIBE of a subscriber.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.broker import HOST

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
ACCEPT = 0x00
WILL_FLAG = 0x04


@dataclass(frozen=True)
class Published:
    """One received PUBLISH; `connection` counts connections from 1."""

    connection: int
    packet_id: int
    topic: str
    payload: bytes


class ScriptedBroker:
    """Accepts one connection after another.

    `answer` returns the reason code of the PUBACK to a PUBLISH, or None to withhold the PUBACK. `most_unanswered` is
    the largest number of messages that were unanswered at the same time, `connections` counts those accepted. While
    `drops_subscribers` is True, it closes the connection at a SUBSCRIBE; with `refuses_wills` at a CONNECT with a will;
    for a PUBLISH with `hangs_up_after` after its PUBACK.
    """

    def __init__(
        self,
        answer: Callable[[Published], int | None],
        *,
        connack_reason: int = ACCEPT,
        connack_delay_s: float = 0.0,
        puback_delay_s: float = 0.0,
        receive_maximum: int = 65_535,
        suback_reason: int = ACCEPT,
        drops_subscribers: bool = False,
        refuses_wills: bool = False,
        hangs_up_after: Callable[[Published], bool] = lambda _: False,
    ) -> None:
        self.published: list[Published] = []
        self.most_unanswered = 0
        self.published_before_connack = 0
        self._answer = answer
        self._connack_reason = connack_reason
        self._connack_delay_s = connack_delay_s
        self._puback_delay_s = puback_delay_s
        self._receive_maximum = receive_maximum
        self._suback_reason = suback_reason
        self.drops_subscribers = drops_subscribers
        self._refuses_wills = refuses_wills
        self._hangs_up_after = hangs_up_after
        self._listener = socket.create_server((HOST, 0))
        self.host, self.port = HOST, int(self._listener.getsockname()[1])
        self._connection: socket.socket | None = None
        self._connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """Number of TCP connections so far."""
        return self._connections

    def payloads(self) -> list[bytes]:
        """Payloads on the topics `result` and `event`, in order of arrival, repetitions included."""
        return [p.payload for p in self.published if p.topic.endswith(("/result", "/event"))]

    def close(self) -> None:
        """Stop listening, close the connection and end the thread."""
        self._listener.close()
        self.drop()
        self._thread.join(40)

    def drop(self) -> None:
        """Close the current connection."""
        if self._connection is not None:
            try:
                self._connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def __enter__(self) -> ScriptedBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections += 1
            with self._connection:
                try:
                    self._serve_connection(self._connection)
                except (OSError, EOFError):
                    continue

    def _serve_connection(self, connection: socket.socket) -> None:
        unanswered: list[tuple[float, bytes]] = []
        connack_due_s: float | None = None
        connection.settimeout(0.005)
        while True:
            now_s = time.monotonic()
            if connack_due_s is not None and now_s >= connack_due_s:
                connection.sendall(self._connack())
                connack_due_s = None
            while unanswered and now_s >= unanswered[0][0]:
                connection.sendall(unanswered.pop(0)[1])
            packet = _packet(connection)
            if packet is None:
                continue
            kind, body = packet
            if kind == CONNECT and self._refuses_wills and body[7] & WILL_FLAG:
                return
            if kind == CONNECT:
                connack_due_s = now_s + self._connack_delay_s
            elif kind == PUBLISH:
                self.published_before_connack += connack_due_s is not None
                published = _published(self._connections, body)
                self.published.append(published)
                reason = self._answer(published)
                due = float("inf") if reason is None else now_s + self._puback_delay_s
                unanswered.append((due, b"\x40\x04" + struct.pack("!HBB", published.packet_id, reason or 0, 0)))
                self.most_unanswered = max(self.most_unanswered, len(unanswered))
                if self._hangs_up_after(published):
                    connection.sendall(unanswered.pop()[1])
                    return
            elif kind == SUBSCRIBE and self.drops_subscribers:
                return
            elif kind == SUBSCRIBE:
                connection.sendall(b"\x90\x04" + body[:2] + bytes([0, self._suback_reason]))
            elif kind == PINGREQ:
                connection.sendall(b"\xd0\x00")
            elif kind == DISCONNECT:
                return

    def _connack(self) -> bytes:
        properties = b"\x21" + struct.pack("!H", self._receive_maximum)
        body = bytes([0, self._connack_reason, len(properties)]) + properties
        return bytes([0x20, len(body)]) + body


def _packet(connection: socket.socket) -> tuple[int, bytes] | None:
    """The next packet's type and body; None if nothing came within the timeout."""
    try:
        first = connection.recv(1)
    except TimeoutError:
        return None
    if not first:
        raise EOFError
    connection.settimeout(5)
    length, shift = 0, 0
    while True:
        byte = _exactly(connection, 1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    body = _exactly(connection, length)
    connection.settimeout(0.005)
    return first[0] >> 4, body


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _published(connection: int, body: bytes) -> Published:
    topic_length = struct.unpack_from("!H", body)[0]
    topic = body[2 : 2 + topic_length].decode()
    packet_id = struct.unpack_from("!H", body, 2 + topic_length)[0]
    properties_at = 4 + topic_length
    return Published(connection, packet_id, topic, body[properties_at + 1 + body[properties_at] :])
