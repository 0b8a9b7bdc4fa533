"""A private mosquitto on a free loopback port, and a subscriber that is independent of the product."""

from __future__ import annotations

import queue
import shutil
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import click
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge.contract.payloads import Result
from tools.demo.children import Children, has_ended

HOST = "127.0.0.1"
_SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_START_TIMEOUT_S = 15.0
_CONFIG = """\
# Written by the demonstration: loopback only, nothing is stored.
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
log_dest stderr
"""


def start_broker(children: Children, folder: Path) -> int:
    """Start mosquitto with a configuration in `folder`; returns its port once it accepts connections.

    Raises:
        click.ClickException: mosquitto is missing or does not start.
    """
    program = shutil.which("mosquitto", path=_SEARCH_PATH)
    if program is None:
        raise click.ClickException("mosquitto is not installed. Run: apt-get install mosquitto")
    folder.mkdir(parents=True)
    port, config, log = _free_port(), folder / "mosquitto.conf", folder / "mosquitto.log"
    config.write_text(_CONFIG.format(port=port, host=HOST), encoding="utf-8")
    process = children.start([program, "-c", str(config)], log=log)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _accepts(port):
        if has_ended(process) or time.monotonic() > deadline:
            raise click.ClickException(f"mosquitto did not start; see {log}")
        children.pause()
    return port


class Subscriber:
    """Receives the results of one topic with QoS 1 and keeps every message, including repeated ones.

    Raises:
        click.ClickException: the broker does not confirm the subscription in time.
    """

    def __init__(self, port: int, topic: str) -> None:
        self._topic = topic
        self._results: list[Result] = []
        self._unread: deque[bytes] = deque()
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-subscriber", protocol=mqtt.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect(HOST, port)
        self._client.loop_start()
        if not self._subscribed.wait(_START_TIMEOUT_S):
            self.close()
            raise click.ClickException(f"the broker on port {port} does not confirm the subscription")

    def results(self) -> list[Result]:
        """Every result so far, in order of arrival.

        Raises:
            pydantic.ValidationError: a message is not a result.
        """
        with suppress(queue.Empty):
            while True:
                self._unread.append(self._arrived.get_nowait())
        while self._unread:  # each is taken off after it was read: one that is no result fails every time, not once
            self._results.append(Result.model_validate_json(self._unread[0]))
            self._unread.popleft()
        return self._results

    def close(self) -> None:
        """Disconnect and stop the client's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: mqtt.ConnectFlags, reason: ReasonCode, _p: object
    ) -> None:
        if not reason.is_failure:
            client.subscribe(self._topic, qos=1)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _mid: int, codes: list[ReasonCode], _p: object
    ) -> None:
        if not any(code.is_failure for code in codes):
            self._subscribed.set()

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.payload:  # an empty one is a test of permissions
            self._arrived.put(bytes(message.payload))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=0.5):
            return True
    except OSError:
        return False
