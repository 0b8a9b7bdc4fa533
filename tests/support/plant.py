"""The plant's side of a test: sends commands over MQTT 5 and waits for their replies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.bundle.keys import signing_key_from_file
from edge.commands.signature import signature_from_key
from edge.contract.commands import CommandReply
from edge.system.clock import utc_from_unix_s
from tests.support.broker import Address

REPLY_TIMEOUT_S = 10.0
_NO_ARGS: Mapping[str, object] = {}


class Plant:
    """Sends commands to the device whose topics start with `root`; `key` is the file of the signing key.

    It signs for the state of the device that answered `wait_for_device` last, with a counter that grows.
    """

    def __init__(self, client: mqtt.Client, root: str, key: Path) -> None:
        self._client = client
        self._root = root
        self._key = signing_key_from_file(key).key
        self._sent = self._made = 0
        self.state_id: str | None = None
        self.counter = 0
        self._replies: dict[bytes, CommandReply] = {}
        self._changed = threading.Condition()
        client.on_message = self._on_message

    def send(
        self, name: str, args: Mapping[str, object] = _NO_ARGS, *, sign: bool = False, valid_s: float = 60
    ) -> bytes:
        """Send a command; returns its correlation data."""
        return self.deliver(name, self.envelope(name, args, sign=sign, valid_s=valid_s))

    def envelope(
        self, name: str, args: Mapping[str, object] = _NO_ARGS, *, sign: bool = False, valid_s: float = 60
    ) -> dict[str, object]:
        """A command to deliver, signed with the next counter."""
        self._made += 1
        now_s = time.time()
        envelope: dict[str, object] = {
            "cmdId": f"c-{self._made}-{time.monotonic_ns()}",
            "issuedAt": utc_from_unix_s(min(now_s, now_s + valid_s) - 1),
            "expiresAt": utc_from_unix_s(now_s + valid_s),
            "args": dict(args),
        }
        if sign:
            self.counter += 1
            envelope |= {"stateId": self.state_id, "counter": self.counter}
            envelope["signature"] = signature_from_key(self._key, self._root, name, envelope)
        return envelope

    def deliver(self, name: str, envelope: Mapping[str, object]) -> bytes:
        """Publish a command; returns its correlation data."""
        self._sent += 1
        correlation = b"%d" % self._sent
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # untyped in paho
        properties.ResponseTopic = f"{self._root}/cmd/{name}/reply/plant"
        properties.CorrelationData = correlation
        self._client.publish(f"{self._root}/cmd/{name}", json.dumps(envelope), 1, properties=properties)
        return correlation

    def ask(
        self, name: str, args: Mapping[str, object] = _NO_ARGS, *, sign: bool = False, valid_s: float = 60
    ) -> CommandReply:
        """Send a command and return its reply; fail after the timeout."""
        return self.ask_with(name, self.envelope(name, args, sign=sign, valid_s=valid_s))

    def ask_with(self, name: str, envelope: Mapping[str, object]) -> CommandReply:
        """Deliver a command and return its reply; fail after the timeout."""
        reply = self._reply(self.deliver(name, envelope), REPLY_TIMEOUT_S)
        assert reply is not None, f"no reply to {name}"
        return reply

    def wait_for_device(self) -> None:
        """Return once the device answers commands; fail after the timeout."""
        deadline_s = time.monotonic() + 2 * REPLY_TIMEOUT_S
        while (reply := self._reply(self.send("status"), 0.3)) is None:
            assert time.monotonic() < deadline_s, "the device answers no command"
        if reply.report is not None:
            self.state_id = reply.report.status.state_id
            self.counter = reply.report.status.command_counter or 0

    def _reply(self, correlation: bytes, timeout_s: float) -> CommandReply | None:
        with self._changed:
            self._changed.wait_for(lambda: correlation in self._replies, timeout_s)
            return self._replies.pop(correlation, None)

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            correlation = bytes(getattr(message.properties, "CorrelationData", b""))
            self._replies[correlation] = CommandReply.model_validate_json(message.payload)
            self._changed.notify_all()


@contextmanager
def connected_plant(broker: Address, root: str, key: Path) -> Iterator[Plant]:
    """A plant that is connected and subscribed to the replies."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plant", protocol=mqtt.MQTTv5)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    plant = Plant(client, root, key)
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.subscribe(f"{root}/cmd/+/reply/plant", qos=1)
    assert subscribed.wait(REPLY_TIMEOUT_S)
    try:
        yield plant
    finally:
        client.disconnect()
        client.loop_stop()
