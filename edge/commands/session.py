"""One connection to the broker with one subscription, for command-line tools."""

from __future__ import annotations

import secrets
from queue import Empty, SimpleQueue
from typing import TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode

from edge.errors import ProcunitError
from edge.mqtt.client import QOS, LinkError, client_from_settings
from edge.mqtt.settings import MqttSettings

T = TypeVar("T")


class Session:
    """Publishes, and receives what is published on `topic`; a context manager.

    Raises:
        ProcunitError: the broker cannot be reached, or refuses the connection or the subscription.
    """

    def __init__(self, settings: MqttSettings, topic: str, timeout_s: float) -> None:
        self._topic = topic
        self._ready: SimpleQueue[str] = SimpleQueue()
        self._received: SimpleQueue[bytes | str] = SimpleQueue()
        where = f"{settings.host}:{settings.port}"
        try:
            self._client = client_from_settings(settings, f"procunit-command-{secrets.token_hex(4)}")
            self._client.on_connect = self._on_connect
            self._client.on_subscribe = self._on_subscribe
            self._client.on_publish = self._on_publish
            self._client.on_disconnect = self._on_disconnect
            self._client.on_message = self._on_message
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
        except (LinkError, OSError) as error:
            raise ProcunitError(
                f"the broker cannot be reached: {error}", where=where, remedy="Run `procunit mqtt check`"
            ) from error
        self._client.loop_start()
        problem = _next(self._ready, timeout_s, "the broker does not answer")
        if problem:
            self.close()
            raise ProcunitError(problem, where=where, remedy="Run `procunit mqtt check`")

    def publish(self, topic: str, payload: str) -> None:
        """Publish a message; a refusal by the broker is what `receive` returns next."""
        self._client.publish(topic, payload, QOS)

    def receive(self, timeout_s: float) -> bytes | str:
        """The payload of the next message, or in words why there is none."""
        return _next(self._received, timeout_s, f"none within {timeout_s:g} s")

    def close(self) -> None:
        """Disconnect and end paho's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._ready.put(f"the broker refused the connection: {reason}")
        else:
            client.subscribe(self._topic, QOS)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refused = next((reason for reason in reasons if reason.is_failure), None)
        self._ready.put("" if refused is None else f"the broker refuses the subscription: {refused}")

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, _id: int, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._received.put(f"the broker refused it: {reason}")

    def _on_disconnect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        self._received.put(f"the connection ended: {reason}")

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self._received.put(bytes(message.payload))


def _next(queue: SimpleQueue[T], timeout_s: float, timeout_text: str) -> T | str:
    try:
        return queue.get(timeout=timeout_s)
    except Empty:
        return timeout_text
