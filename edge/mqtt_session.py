"""One MQTT connection from CONNECT to its end, as a wire: it keeps nothing, repeats nothing and is never used twice.

paho queues what is published offline, sends it out of order on reconnecting and dies of an exception in a callback;
so every connection gets a client of its own, callbacks only enqueue, and what was not acknowledged is sent again from
the outbox.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.config import MqttSettings

CONNECT_TIMEOUT_S = 5.0
TCP_USER_TIMEOUT_MS = 8000
"""A silent partition is noticed after this time, where keepalive alone needs two periods."""
QOS = 1

_UNLIMITED_PACKET_BYTES = 268_435_455
_DEFAULT_RECEIVE_MAXIMUM = 65_535
_CLOSE_TIMEOUT_S = 1.0

_logger = logging.getLogger(__name__)


class LinkError(Exception):
    """There is no connection, or no longer; the text says why."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection, with its limits."""

    receive_maximum: int
    maximum_packet_bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker's PUBACK; `reason_code` from 0x80 on is a refusal."""

    packet_id: int
    reason_code: int
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection was refused or is gone."""

    text: str


Occurrence = Connected | Acknowledged | Ended


@dataclass(frozen=True, slots=True)
class Will:
    """The retained message that the broker publishes when the connection breaks."""

    topic: str
    payload: bytes


def client_from_settings(settings: MqttSettings, client_id: str) -> mqtt.Client:
    """An MQTT 5 client with the user's credentials and TLS; the password is read from its file now.

    Raises:
        LinkError: the password or the certificates cannot be read.
    """
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    try:
        if settings.username is not None:
            client.username_pw_set(settings.username, _password(settings))
        if settings.tls_ca_file is not None:
            client.tls_set_context(ssl.create_default_context(cafile=str(settings.tls_ca_file)))
    except (OSError, UnicodeDecodeError) as error:
        raise LinkError(f"the password file or the CA file cannot be used: {error}") from error
    return client


class Session:
    """One connection; `wake` is set at every occurrence.

    Only one thread may call it. `occurrences` gives what happened since the last call.
    """

    def __init__(self, settings: MqttSettings, client_id: str, will: Will, wake: threading.Event) -> None:
        self._settings = settings
        self._wake = wake
        self._occurrences: SimpleQueue[Occurrence] = SimpleQueue()
        self._ended = threading.Event()
        self._client = client_from_settings(settings, client_id)
        self._client.will_set(will.topic, will.payload, qos=QOS, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        """Connect and send CONNECT; the broker's answer is an occurrence.

        Raises:
            LinkError: there is no TCP or TLS connection.
        """
        try:
            self._client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, clean_start=True)
            sock = self._client.socket()
            if isinstance(sock, socket.socket):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, UnicodeError) as error:
            raise LinkError(str(error)) from error
        self._client.loop_start()

    def occurrences(self) -> list[Occurrence]:
        """What happened since the last call, in order."""
        found: list[Occurrence] = []
        try:
            while True:
                found.append(self._occurrences.get_nowait())
        except Empty:
            return found

    def publish(self, topic: str, payload: bytes, *, retain: bool, content_type: str) -> int:
        """Send a message with QoS 1; returns the packet id of its PUBACK.

        Raises:
            LinkError: it was not sent.
        """
        info = self._client.publish(topic, payload, QOS, retain, _properties(content_type))
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise LinkError(mqtt.error_string(info.rc))
        return info.mid

    def close(self) -> None:
        """Say goodbye, so that the broker does not publish the will, and end."""
        self._client.disconnect()
        self._ended.wait(_CLOSE_TIMEOUT_S)
        self.abandon()

    def abandon(self) -> None:
        """End without goodbye: the broker publishes the will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past TLS, which would wait for the other side
            except OSError as error:
                _logger.debug("the connection was gone already: %s", error)
        self._client.drop_out_messages()
        self._client.loop_stop()

    def _tell(self, occurrence: Occurrence) -> None:
        self._occurrences.put(occurrence)
        self._wake.set()

    def _on_connect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        try:
            if reason.is_failure:
                self._tell(Ended(f"the broker refused the connection: {reason}"))
                return
            if getattr(properties, "MaximumQoS", QOS) < QOS:
                self._tell(Ended("the broker acknowledges nothing (it takes QoS 0 only)"))
                return
            self._tell(
                Connected(
                    int(getattr(properties, "ReceiveMaximum", _DEFAULT_RECEIVE_MAXIMUM)),
                    int(getattr(properties, "MaximumPacketSize", _UNLIMITED_PACKET_BYTES)),
                )
            )
        except Exception as error:  # noqa: BLE001  (it would end paho's thread in silence)
            self._tell(Ended(f"the broker's answer cannot be understood: {error}"))

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, packet_id: int, reason: ReasonCode, _properties: object
    ) -> None:
        try:
            self._tell(Acknowledged(packet_id, reason.value, str(reason)))
        except Exception as error:  # noqa: BLE001  (it would end paho's thread in silence)
            self._tell(Ended(f"the broker's PUBACK cannot be understood: {error}"))

    def _on_disconnect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        try:
            self._tell(Ended(f"the connection ended: {reason}"))
        finally:
            self._ended.set()


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is None:
        return None
    return settings.password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")


def _properties(content_type: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ContentType = content_type
    return properties
