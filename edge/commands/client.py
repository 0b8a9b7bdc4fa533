"""Sends commands to a device and waits for the reply to each; for command-line tools."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from edge.contract.commands import CommandName, CommandReply
from edge.contract.topics import COMMAND, COMMAND_REPLY
from edge.errors import ProcunitError
from edge.mqtt.client import QOS, LinkError, client_from_settings
from edge.mqtt.settings import MqttSettings

REPLY_TIMEOUT_S = 10.0
T = TypeVar("T")


class CommandClient:
    """Sends one kind of command to the device whose topics start with `root`; a context manager.

    It reads replies on the command's reply topic, not a response topic, so that it also works over MQTT 3.1.1.

    Raises:
        ProcunitError: the broker cannot be reached, or refuses the connection or the subscription.
    """

    def __init__(self, settings: MqttSettings, root: str, name: CommandName) -> None:
        self._topic = COMMAND.at(root, name=name)
        self._reply_topic = COMMAND_REPLY.at(root, name=name)
        self._ready: SimpleQueue[str] = SimpleQueue()
        self._replies: SimpleQueue[CommandReply | str] = SimpleQueue()
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
        problem = self._next(self._ready, "the broker does not answer")
        if problem:
            self.close()
            raise ProcunitError(problem, where=where, remedy="Run `procunit mqtt check`")

    def ask(self, args: Mapping[str, object]) -> CommandReply:
        """Send the command with these arguments and return the reply.

        Raises:
            ProcunitError: no reply arrived, or the broker refused the command.
        """
        cmd_id = uuid.uuid4().hex
        self._client.publish(self._topic, json.dumps({"cmdId": cmd_id, "args": args}), QOS)
        while True:
            reply = self._next(self._replies, f"none within {REPLY_TIMEOUT_S:g} s")
            if isinstance(reply, str):
                raise ProcunitError(
                    f"no reply to the command: {reply}",
                    where=self._topic,
                    remedy="Check that the device runs, and that this user may publish on this topic and read below it",
                )
            if reply.cmd_id == cmd_id:
                return reply

    def close(self) -> None:
        """Disconnect and end paho's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _next(queue: SimpleQueue[T], timeout_text: str) -> T | str:
        try:
            return queue.get(timeout=REPLY_TIMEOUT_S)
        except Empty:
            return timeout_text

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._ready.put(f"the broker refused the connection: {reason}")
        else:
            client.subscribe(self._reply_topic, QOS)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refused = next((reason for reason in reasons if reason.is_failure), None)
        self._ready.put("" if refused is None else f"the broker refuses the subscription: {refused}")

    def _on_publish(
        self, _client: mqtt.Client, _userdata: object, _id: int, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._replies.put(f"the broker refused it: {reason}")

    def _on_disconnect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        self._replies.put(f"the connection ended: {reason}")

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            self._replies.put(CommandReply.model_validate_json(message.payload))
        except ValidationError as error:
            self._replies.put(f"the reply cannot be read: {error.error_count()} problems")
