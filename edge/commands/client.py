"""Sends commands to a device and waits for the reply to each, and reads its status; for command-line tools."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from edge.commands.command_state import Position
from edge.commands.session import Session
from edge.contract.commands import CommandName, CommandReply
from edge.contract.payloads import Status
from edge.contract.topics import COMMAND, COMMAND_REPLY, STATUS
from edge.errors import ProcunitError
from edge.mqtt.settings import MqttSettings

REPLY_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 5.0
"""A retained message comes with the subscription; one that is not there does not come at all."""


class CommandClient:
    """Sends one kind of command to the device whose topics start with `root`; a context manager.

    It reads replies on the command's reply topic, not a response topic, so that it also works over MQTT 3.1.1.

    Raises:
        ProcunitError: the broker cannot be reached, or refuses the connection or the subscription.
    """

    def __init__(self, settings: MqttSettings, root: str, name: CommandName) -> None:
        self._topic = COMMAND.at(root, name=name)
        self._session = Session(settings, COMMAND_REPLY.at(root, name=name), REPLY_TIMEOUT_S)

    def ask(self, envelope: Mapping[str, object]) -> CommandReply:
        """Send a command and return the reply to it.

        Raises:
            ProcunitError: no reply arrived, or the broker refused the command.
        """
        self._session.publish(self._topic, json.dumps(envelope))
        while True:
            received = self._session.receive(REPLY_TIMEOUT_S)
            if isinstance(received, str):
                raise self._no_reply(received)
            try:
                reply = CommandReply.model_validate_json(received)
            except ValidationError as error:
                raise self._no_reply(f"the reply cannot be read: {error.error_count()} problems") from error
            if reply.cmd_id == envelope["cmdId"]:
                return reply

    def _no_reply(self, why: str) -> ProcunitError:
        return ProcunitError(
            f"no reply to the command: {why}",
            where=self._topic,
            remedy="Check that the device runs, and that this user may publish on this topic and read below it",
        )

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def position_of_device(settings: MqttSettings, root: str) -> Position:
    """State id and counter in the retained status of a device: what a signed command has to fit.

    Raises:
        ProcunitError: there is no such status, the device is offline, or it is of an earlier version.
    """
    topic = STATUS.at(root)
    with Session(settings, topic, REPLY_TIMEOUT_S) as session:
        received = session.receive(STATUS_TIMEOUT_S)
    if isinstance(received, str):
        raise ProcunitError(
            f"the device's retained status cannot be read: {received}",
            where=topic,
            remedy="Check that the device has been on this broker, and that this user may read this topic",
        )
    try:
        status = Status.model_validate_json(received)
    except ValidationError as error:
        raise ProcunitError(
            f"the device's status cannot be read: {error.error_count()} problems", where=topic
        ) from error
    if status.state_id is None or status.command_counter is None:
        raise ProcunitError(
            f"the device's status ({status.state}) has no stateId and commandCounter",
            where=topic,
            remedy="Wait until the device is connected again"
            if status.state == "offline"
            else "Update the device: its version is from before signed commands had an order",
        )
    return Position(status.state_id, status.command_counter)
