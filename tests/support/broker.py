"""A real mosquitto on a free loopback port, and a subscriber that records every message."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

HOST = "127.0.0.1"
START_TIMEOUT_S = 40.0
_SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class Address(Protocol):
    """Where a broker listens."""

    @property
    def host(self) -> str:
        """Name or address."""

    @property
    def port(self) -> int:
        """TCP port."""


class Broker:
    """One mosquitto process; `extra` lines are added to its configuration.

    It ends with the process that started it, even if that one is killed. `start` restarts it on the same port: after
    `stop` with its sessions and their queued messages, after `kill` without.
    """

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.host = HOST
        self.port = free_port()
        self._config = directory / f"mosquitto-{self.port}.conf"
        self._log = directory / f"mosquitto-{self.port}.log"
        self._config.write_text(
            f"listener {self.port} {HOST}\nuser root\nallow_anonymous true\nlog_dest stderr\n"
            f"persistence true\npersistence_location {directory}/\npersistence_file mosquitto-{self.port}.db\n"
            f"max_queued_messages 1000000\nmax_inflight_messages 0\n{extra}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        program = shutil.which("mosquitto", path=_SEARCH_PATH)
        if program is None:
            raise RuntimeError("mosquitto is not installed; run: apt-get install mosquitto")
        guard = shutil.which("setpriv", path=_SEARCH_PATH)
        prefix = [guard, "--pdeathsig", "KILL", "--"] if guard else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, program, "-c", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"mosquitto did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it with SIGTERM, so that it saves its sessions."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def kill(self) -> None:
        """Stop it with SIGKILL, like a power cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def replace_configuration(self, text: str) -> None:
        """Replace the configuration; the new one has to listen on `port`."""
        self._config.write_text(f"user root\nlog_dest stderr\n{text}")

    def forget(self, extra: str) -> None:
        """Delete everything that it stored, and add `extra` lines to its configuration; call it while it is stopped."""
        for stored in self._config.parent.glob(f"mosquitto-{self.port}.db*"):
            stored.unlink()
        lines = self._config.read_text().replace("max_inflight_messages 0\n", "")
        self._config.write_text(f"{lines}{extra}")

    def _accepts(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5):
                return True
        except OSError:
            return False


@contextmanager
def running_broker(directory: Path, extra: str = "") -> Iterator[Broker]:
    """A started broker, killed at the end."""
    broker = Broker(directory, extra)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def free_port() -> int:
    """A loopback port on which no program listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Received:
    """One received message."""

    topic: str
    payload: bytes
    retained: bool


class Subscriber:
    """An independent MQTT subscriber (QoS 1) that keeps every message in order of arrival.

    It reconnects by itself; its session survives a `stop` of the broker.
    """

    def __init__(self, broker: Address, topic_filter: str = "#", *, username: str = "", password: str = "") -> None:
        self._messages: list[Received] = []
        self._changed = threading.Condition()
        self._subscriptions = 0
        self._filter = topic_filter
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"subscriber-{id(self):x}", clean_session=False
        )
        if username:
            self._client.username_pw_set(username, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect_async(broker.host, broker.port)
        self._client.loop_start()
        self.wait_subscribed()

    @property
    def messages(self) -> list[Received]:
        """Every message received so far."""
        with self._changed:
            return list(self._messages)

    def wait_subscribed(self, times: int = 1, timeout_s: float = 40.0) -> None:
        """Return after `times` subscriptions (one per connection); fail after the timeout."""
        with self._changed:
            subscribed = self._changed.wait_for(lambda: self._subscriptions >= times, timeout_s)
            assert subscribed, "the subscriber did not reach the broker"

    def wait_for(self, condition: Callable[[list[Received]], bool], timeout_s: float = 40.0) -> list[Received]:
        """Return the messages once they meet the condition; fail after the timeout and show the last ones."""
        with self._changed:
            met = self._changed.wait_for(lambda: condition(self._messages), timeout_s)
            assert met, f"{len(self._messages)} messages, the last: {self._messages[-3:]}"
            return list(self._messages)

    def close(self) -> None:
        """Disconnect and end its thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: mqtt.ConnectFlags, reason: ReasonCode, _p: object
    ) -> None:
        if not reason.is_failure:
            client.subscribe(self._filter, qos=1)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _mid: int, _codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        with self._changed:
            self._subscriptions += 1
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self._messages.append(Received(message.topic, bytes(message.payload), message.retain))
            self._changed.notify_all()
