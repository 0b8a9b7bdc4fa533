"""`procunit watch`: shows results live in the terminal, received from the broker like any other receiver."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

import click
import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError
from rich.live import Live

from edge.cli.options import config_option
from edge.cli.watch_view import WatchView, line_from_result, link_text
from edge.config.file import settings_from_file
from edge.contract.payloads import Result
from edge.contract.topics import EVENT, RESULT, STATUS, root_from_device
from edge.mqtt.client import QOS, LinkError, client_from_settings
from edge.mqtt.settings import MqttSettings
from edge.terminal import Console, echo

_RETRY_S = 1.0
_REFRESH_S = 0.25
_LINES_AROUND_TABLE = 9
_MAX_PACKET_BYTES = 16 << 20
"""With `#` a broker sends everything that it has, images of other programs included."""
_MIN_ROWS, _MAX_ROWS = 5, 40


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class _Link:
    """The state of the connection to the broker: `problem` is why there is none, or "" if there is one."""

    problem: str


_Inbox = SimpleQueue[_Message | _Link]


@click.command()
@config_option("Use the broker and the topics of a device's settings file.", required=False)
@click.option("--host", help="Name or address of the broker.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the broker.  [default: 1883]")
@click.option("--root", help="Root of one device's topics, such as works/line-1/edge-1/v1.  [default: every device]")
@click.option("--count", type=click.IntRange(min=1), help="End after this number of results.")
@click.option("--until-stopped", is_flag=True, help="End when the device has stopped.")
def watch(
    config: Path | None, host: str | None, port: int | None, root: str | None, count: int | None, until_stopped: bool
) -> None:
    """Show results live: part, verdict, why, scores, latency.

    In a terminal this is a table of the newest parts, otherwise one line per result. Without a broker it waits for one.

    \b
    Examples:
      procunit watch --config line.yaml
      procunit watch --host 192.168.1.10
      procunit watch --root works/line-1/edge-1/v1 --count 100 > results.txt
    """
    if config is not None and (host or port):
        raise click.UsageError("--config already contains the broker: leave out --host and --port")
    if config is not None:
        settings = settings_from_file(config)
        mqtt_settings, root = settings.mqtt, root or root_from_device(settings.device)
    else:
        mqtt_settings = _broker_at(host or "127.0.0.1", port or 1883)
    console = Console()
    view = WatchView(min(_MAX_ROWS, max(_MIN_ROWS, console.height - _LINES_AROUND_TABLE)))
    inbox: _Inbox = SimpleQueue()
    with _Follower(mqtt_settings, _topic_filters(root), inbox):
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                _show(view, inbox, _LiveTable(live), count, until_stopped)
            return
        try:
            _show(view, inbox, _Lines(), count, until_stopped)
        except BrokenPipeError:  # the reader of the lines has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _broker_at(host: str, port: int) -> MqttSettings:
    try:
        return MqttSettings(host=host, port=port)
    except ValidationError as error:
        raise click.BadParameter(f"{host!r} is not a host name or address", param_hint="--host") from error


def _topic_filters(root: str | None) -> list[str]:
    if root is None:
        return ["#"]
    if "#" in root:
        raise click.BadParameter("# is not allowed; use + in place of any one level", param_hint="--root")
    return [topic.at(root.rstrip("/")) for topic in (RESULT, EVENT, STATUS)]


class _Output(Protocol):
    def item(self, view: WatchView, result: Result | None) -> None:
        """Called after each message or change of the connection; `result` is a new result, if it was one."""

    def refresh(self, view: WatchView) -> None:
        """Called every `_REFRESH_S` seconds."""


class _LiveTable:
    def __init__(self, live: Live) -> None:
        self._live = live

    def item(self, view: WatchView, result: Result | None) -> None:
        """Nothing to do: the next refresh shows it."""

    def refresh(self, view: WatchView) -> None:
        self._live.update(view.rendered(time.monotonic()), refresh=True)


class _Lines:
    """Prints results to standard output, everything else to standard error."""

    def __init__(self) -> None:
        self._printed = ("", "")

    def item(self, view: WatchView, result: Result | None) -> None:
        if result is not None:
            echo(line_from_result(result))
        link = link_text(view.link, 200)
        for text, printed in zip((link, view.note), self._printed, strict=True):
            if text != printed:
                echo(text, err=True)
        self._printed = (link, view.note)

    def refresh(self, view: WatchView) -> None:
        """Nothing to do: everything is printed already."""


def _show(view: WatchView, inbox: _Inbox, output: _Output, count: int | None, until_stopped: bool) -> None:
    """Show what arrives until the count is reached or the device has stopped."""
    while True:
        for item in _until_refresh(inbox):
            result = None
            if isinstance(item, _Link):
                view.link = item.problem
            else:
                result = view.take(item.topic, item.payload, retained=item.retained, now_monotonic_s=time.monotonic())
            output.item(view, result)
            if view.counts.total() == count or (until_stopped and view.all_stopped):
                output.refresh(view)
                return
        output.refresh(view)


def _until_refresh(inbox: _Inbox) -> Iterator[_Message | _Link]:
    """Items as they arrive, until the next refresh is due."""
    due = time.monotonic() + _REFRESH_S
    while (left_s := due - time.monotonic()) > 0:
        try:
            yield inbox.get(timeout=left_s)
        except Empty:
            return


class _Follower:
    """Subscribes on a thread and reconnects after every lost connection; messages and link states go to the inbox."""

    def __init__(self, settings: MqttSettings, topic_filters: list[str], inbox: _Inbox) -> None:
        self._settings = settings
        self._topic_filters = topic_filters
        self._inbox = inbox
        self._client_id = f"procunit-watch-{secrets.token_hex(4)}"
        self._client: mqtt.Client | None = None
        self._refusal = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> _Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._client is not None:
            self._client.disconnect()
        self._thread.join(_RETRY_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._run_connection()
            except (LinkError, OSError, UnicodeError) as error:
                self._inbox.put(_Link(str(error)))
            except Exception as error:  # noqa: BLE001  (the top of a thread, and the broker is not trusted)
                self._inbox.put(_Link(f"cannot understand the broker's packets: {error}"))
            self._closing.wait(_RETRY_S)

    def _run_connection(self) -> None:
        client = client_from_settings(self._settings, self._client_id)
        client.max_packet_bytes = _MAX_PACKET_BYTES
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        self._refusal = ""
        client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
        client.loop_forever()

    def _on_connect(
        self, client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refused the connection: {reason}"
            return
        # plain numbers, which paho takes for MQTT 5 and 3.1.1; its SubscribeOptions are refused over 3.1.1
        client.subscribe([(topic_filter, QOS) for topic_filter in self._topic_filters])

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: object, _id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refused = next((reason for reason in reasons if reason.is_failure), None)
        self._inbox.put(_Link("" if refused is None else f"the broker refuses the subscription: {refused}"))

    def _on_disconnect(
        self, _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        self._inbox.put(_Link(self._refusal or f"the connection ended: {reason}"))

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self._inbox.put(_Message(message.topic, bytes(message.payload), message.retain))
