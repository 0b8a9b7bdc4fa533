"""One MQTT connection from CONNECT to its end: it stores nothing, resends nothing and is never used twice.

paho queues messages published offline, sends them out of order after a reconnect, and its thread ends if a callback
raises. So every connection gets a new client, callbacks only enqueue, and unacknowledged messages are sent again from
the outbox.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.mqtt.client import (
    MAX_INCOMING_BYTES,
    QOS,
    BoundedClient,
    LinkError,
    ProbingClient,
    client_from_settings,
)
from edge.mqtt.inlet import Incoming
from edge.mqtt.occurrences import Acknowledged, Connected, Ended, Occurrence, Subscribed, ended_from_disconnect
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import text_from_os_error
from edge.mqtt.will import Will

_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 8000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""With these a network that drops all packets ends the connection after 8 to 10 s, with or without data in flight."""
_UNLIMITED_PACKET_BYTES = 268_435_455
_DEFAULT_RECEIVE_MAXIMUM = 65_535
_CLOSE_TIMEOUT_S = 1.0

_logger = logging.getLogger(__name__)


class Connection:
    """One connection; `wake` is set at every occurrence.

    Only one thread may call its methods. Messages of subscriptions go to `on_message` on paho's network thread; if it
    returns False the connection ends. It also ends at a packet of more than `MAX_INCOMING_BYTES`, after `on_oversize`.
    With `probing` only `probe` may publish.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        will: Will | None,
        wake: threading.Event,
        on_message: Callable[[Incoming], bool] | None = None,
        on_oversize: Callable[[], None] | None = None,
        *,
        probing: bool = False,
    ) -> None:
        self._settings = settings
        self._wake = wake
        self._on_incoming = on_message
        self._five = settings.protocol == "5"
        self._occurrences: SimpleQueue[Occurrence] = SimpleQueue()
        self._ended = threading.Event()
        self._last_error = _LastError()
        self._properties: dict[str, Properties] = {}
        self._client_id = client_id
        self._client = client_from_settings(settings, client_id, ProbingClient if probing else BoundedClient)
        if isinstance(self._client, ProbingClient):
            self._client.on_pubrec = self._on_pubrec
        self._client.enable_logger(self._last_error.logger)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=QOS, retain=will.retain)
        self._client.on_oversize = on_oversize
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        """Open the TCP or TLS connection and send CONNECT; the CONNACK becomes an occurrence.

        Raises:
            LinkError: the TCP or TLS connection failed.
        """
        settings = self._settings
        try:
            if self._five:
                self._client.connect(
                    settings.host,
                    settings.port,
                    settings.keepalive_s,
                    clean_start=True,
                    properties=_properties(PacketTypes.CONNECT, MaximumPacketSize=MAX_INCOMING_BYTES),
                )
            else:
                self._client.connect(settings.host, settings.port, settings.keepalive_s)
            sock = self._client.socket()
            if isinstance(sock, socket.socket):
                for level, option, value in _SOCKET_OPTIONS:
                    sock.setsockopt(level, option, value)
        except (OSError, UnicodeError) as error:
            raise LinkError(text_from_os_error(error) if isinstance(error, OSError) else str(error)) from error
        self._client.loop_start()

    def occurrences(self) -> list[Occurrence]:
        """What happened since the last call, in order."""
        found: list[Occurrence] = []
        try:
            while True:
                found.append(self._occurrences.get_nowait())
        except Empty:
            return found

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, content_type: str, correlation: bytes | None = None
    ) -> int:
        """Send a message with QoS 1; returns the packet id that its PUBACK will have.

        Raises:
            LinkError: the connection ended, with this message or before; why is among the occurrences, after the last
                PUBACK.
        """
        properties = self._publish_properties(content_type, correlation) if self._five else None
        info = self._client.publish(topic, payload, QOS, retain, properties)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._ended.wait(_CLOSE_TIMEOUT_S)  # paho has no socket any more, and is about to say why
            raise LinkError(mqtt.error_string(info.rc))
        return info.mid

    def probe(self, topic: str, payload: bytes, *, retain: bool, content_type: str) -> None:
        """Ask the broker whether this may be published; its answer becomes an Acknowledged, and nobody receives it.

        The message has QoS 2 and is never completed.
        """
        self._client.publish(
            topic, payload, 2, retain, self._publish_properties(content_type, None) if self._five else None
        )

    def subscribe(self, topic_filter: str) -> None:
        """Send SUBSCRIBE; the SUBACK becomes an occurrence."""
        self._client.subscribe(topic_filter, QOS)

    def close(self) -> None:
        """Send DISCONNECT, so that the broker does not publish the will, and close the connection."""
        self._client.disconnect()
        self._ended.wait(_CLOSE_TIMEOUT_S)
        self.abandon()

    def abandon(self) -> None:
        """Close the connection without DISCONNECT: the broker publishes the will."""
        self._shut_socket_down()
        self._client.drop_out_messages()
        self._client.loop_stop()

    def _shut_socket_down(self) -> None:
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the TLS shutdown, which would wait for the broker
            except OSError as error:
                _logger.debug("the connection had ended already: %s", error)

    def _publish_properties(self, content_type: str, correlation: bytes | None) -> Properties:
        if correlation is not None:
            return _properties(PacketTypes.PUBLISH, ContentType=content_type, CorrelationData=correlation)
        if content_type not in self._properties:
            self._properties[content_type] = _properties(PacketTypes.PUBLISH, ContentType=content_type)
        return self._properties[content_type]

    def _report(self, occurrence: Occurrence) -> None:
        self._occurrences.put(occurrence)
        self._wake.set()

    def _on_connect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        try:
            if reason.is_failure:
                self._report(Ended(f"the broker refused the connection: {reason}", refusal_code=reason.value))
                return
            if getattr(properties, "MaximumQoS", QOS) < QOS:
                self._report(Ended("the broker acknowledges no message: it accepts QoS 0 only"))
                return
            self._report(
                Connected(
                    int(getattr(properties, "ReceiveMaximum", _DEFAULT_RECEIVE_MAXIMUM)),
                    int(getattr(properties, "MaximumPacketSize", _UNLIMITED_PACKET_BYTES)),
                    bool(getattr(properties, "RetainAvailable", True)),
                    int(getattr(properties, "MaximumQoS", 2)),
                )
            )
        except Exception as error:  # noqa: BLE001  (paho's thread would end without a log line)
            self._report(Ended(f"the broker's answer cannot be understood: {error}"))

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, packet_id: int, reason: ReasonCode, _properties: object
    ) -> None:
        try:
            self._report(Acknowledged(packet_id, reason.value, str(reason)))
        except Exception as error:  # noqa: BLE001  (paho's thread would end without a log line)
            self._report(Ended(f"the broker's PUBACK cannot be understood: {error}"))

    def _on_pubrec(self, packet_id: int, reason_code: int) -> None:
        try:
            text = str(ReasonCode(PacketTypes.PUBREC, identifier=reason_code))
        except KeyError:
            text = f"reason 0x{reason_code:02X}"
        self._report(Acknowledged(packet_id, reason_code, text))

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        try:
            refused = next((str(reason) for reason in reasons if reason.is_failure), "")
            self._report(Subscribed(refused))
        except Exception as error:  # noqa: BLE001  (paho's thread would end without a log line)
            self._report(Ended(f"the broker's SUBACK cannot be understood: {error}"))

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            properties = message.properties
            incoming = Incoming(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "CorrelationData", None),
            )
            if self._on_incoming is None or not self._on_incoming(incoming):
                self._report(Ended("the broker floods this device with messages"))
                self._shut_socket_down()
        except Exception as error:  # noqa: BLE001  (as above; the broker is not trusted)
            self._report(Ended(f"the broker's message cannot be understood: {error}"))

    def _on_disconnect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        try:
            self._report(ended_from_disconnect(reason, self._last_error.text, self._client_id))
        finally:
            self._ended.set()


class _LastError(logging.Handler):
    """Keeps the last error that paho logged: its log is the only place where paho gives the cause."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        self.logger = logging.Logger("paho", logging.ERROR)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def _properties(packet_type: int, **values: object) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]  # untyped in paho
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
