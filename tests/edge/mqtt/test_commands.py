"""Incoming commands, outgoing replies and metrics, and floods of commands, which must not delay results."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.faults import FaultId
from edge.mqtt.best_effort import MAX_REPLIES, BestEffortMessage, BestEffortQueue
from edge.mqtt.client import MAX_INCOMING_BYTES
from edge.mqtt.inlet import CLOSED_S, MAX_PER_S, MAX_WAITING, CommandInlet, Incoming
from edge.outbox.outbox import Outbox
from tests.doubles.clock import MonotonicClock
from tests.support.broker import HOST, Broker, Subscriber
from tests.support.publishing import ROOT, publishing, put_results, sequence, states, wait_until


@pytest.fixture
def plant(broker: Broker) -> mqtt.Client:
    """A connected MQTT 5 client that can publish commands."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plant", protocol=mqtt.MQTTv5)
    client.connect(broker.host, broker.port)
    client.loop_start()
    return client


def command(text: str) -> Incoming:
    return Incoming(f"{ROOT}/cmd/x", text.encode(), False, None, None)


def test_a_command_arrives_with_all_properties_and_its_reply_has_the_correlation_data(
    broker: Broker, plant: mqtt.Client, tmp_path: Path
) -> None:
    taken: list[Incoming] = []
    with (
        Subscriber(broker) as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, inlet=CommandInlet(taken.append)) as publisher,
    ):
        wait_until(lambda: publisher.link.connected)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # untyped in paho
        properties.ResponseTopic, properties.CorrelationData = "plant/answers", b"\x00\x01"
        wait_until(lambda: bool(plant.publish(f"{ROOT}/cmd/status", b"{}", 1, properties=properties)) and bool(taken))
        assert taken[0] == Incoming(f"{ROOT}/cmd/status", b"{}", False, "plant/answers", b"\x00\x01")
        publisher.reply(f"{ROOT}/cmd/status/reply", b'{"done": true}', b"\x00\x01")
        publisher.offer_metrics(b'{"parts": 1}')
        messages = subscriber.wait_for(lambda m: any(r.topic == f"{ROOT}/metrics" for r in m))
        assert [m.payload for m in messages if m.topic.endswith("/reply")] == [b'{"done": true}']
    plant.loop_stop()


def test_after_a_failure_of_the_handler_the_next_command_is_handled() -> None:
    taken: list[bytes] = []

    def handle(message: Incoming) -> None:
        if message.payload == b"bad":
            raise ValueError(message.payload)
        taken.append(message.payload)

    inlet = CommandInlet(handle)
    inlet.start()
    assert inlet.put(command("bad"))
    assert inlet.put(command("good"))
    wait_until(lambda: taken == [b"good"])
    inlet.stop()


def test_commands_beyond_the_queue_are_dropped_and_a_flood_closes_the_inlet() -> None:
    release = threading.Event()

    def handle(_: Incoming) -> None:
        release.wait(10)

    inlet = CommandInlet(handle)
    inlet.start()
    while time.monotonic() % 1 > 0.5:  # so that all fall into the same second of the counter
        time.sleep(0.01)
    accepted = [inlet.put(command(str(n))) for n in range(MAX_PER_S + 1)]
    assert accepted == [True] * MAX_PER_S + [False]
    assert inlet.dropped >= MAX_PER_S - MAX_WAITING - 1
    assert not inlet.open
    release.set()
    inlet.stop()


def test_a_flood_of_commands_ends_the_connection_results_still_arrive_and_commands_after_a_while(
    broker: Broker, plant: mqtt.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.mqtt.inlet.CLOSED_S", 2.0)
    taken: list[bytes] = []

    def handle(message: Incoming) -> None:
        time.sleep(0.01)
        taken.append(message.payload)

    inlet = CommandInlet(handle)
    with (
        Subscriber(broker, f"{ROOT}/#") as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, inlet=inlet) as publisher,
    ):
        wait_until(lambda: publisher.link.connected)
        for _ in range(5 * MAX_PER_S):
            plant.publish(f"{ROOT}/cmd/status", b"{}", 0)
        wait_until(lambda: publisher.link.connections == 2)
        put_results(outbox, 50)
        messages = subscriber.wait_for(lambda m: len(sequence(m)) == 50)
        assert sequence(messages) == list(range(1, 51))
        assert inlet.dropped > 0
        wait_until(lambda: inlet.open)
        wait_until(lambda: bool(plant.publish(f"{ROOT}/cmd/status", b"late", 1)) and b"late" in taken)
        assert publisher.link.connections == 2, "the same connection takes commands again"
    plant.loop_stop()


def test_dropped_commands_are_a_problem_until_a_while_after_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MonotonicClock()
    monkeypatch.setattr("edge.mqtt.inlet.time", clock)
    inlet = CommandInlet(lambda _: None)
    assert inlet.problems() == {FaultId.COMMAND_FLOOD: None}
    for number in range(MAX_WAITING + 2):
        assert inlet.put(command(str(number)))
    assert inlet.problems() == {FaultId.COMMAND_FLOOD: "2 were dropped unread since the start"}
    clock.now_s += CLOSED_S
    assert inlet.problems() == {FaultId.COMMAND_FLOOD: None}


def test_the_inlet_stays_closed_longer_each_time_that_the_cause_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MonotonicClock()
    monkeypatch.setattr("edge.mqtt.inlet.time", clock)
    inlet = CommandInlet(lambda _: None)

    def closed_s() -> float:
        inlet.refuse_oversize()
        closed_at_s = clock.now_s
        assert not inlet.put(command("read before the connection ended"))
        while not inlet.open:
            assert inlet.problems()[FaultId.COMMAND_FLOOD] is not None
            clock.now_s += 10
        return clock.now_s - closed_at_s

    assert [closed_s() for _ in range(6)] == [60, 120, 240, 480, 900, 900]
    clock.now_s += 61
    assert closed_s() == 60, "it was over in between"


def test_replies_are_sent_before_the_newest_metrics_and_the_queue_is_bounded() -> None:
    best_effort = BestEffortQueue("r/metrics")
    best_effort.put_metrics(b"1")
    best_effort.put_metrics(b"2")
    for number in range(MAX_REPLIES + 1):
        best_effort.put_reply(BestEffortMessage("r/reply", b"%d" % number))
    sent = [message.payload for message in iter(best_effort.next, None)]
    assert sent == [b"%d" % n for n in range(1, MAX_REPLIES + 1)] + [b"2"]


def test_the_newest_result_is_retained_at_the_broker_after_it_was_sent(broker: Broker, tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox, Subscriber(broker) as subscriber:
        with publishing(outbox, broker.port):
            put_results(outbox, 3)
            subscriber.wait_for(lambda m: any(r.topic == f"{ROOT}/result/last" and b"3" in r.payload for r in m))
        topics = [(m.topic.removeprefix(f"{ROOT}/"), m.payload) for m in subscriber.messages]
        assert topics.index(("result", b'{"seq": 3}')) < topics.index(("result/last", b'{"seq": 3}'))
    with Subscriber(broker, f"{ROOT}/result/last") as late:
        (kept,) = late.wait_for(lambda m: len(m) == 1)
        assert kept.retained
        assert kept.payload == b'{"seq": 3}'


def test_the_activity_at_the_start_is_published_in_the_status(broker: Broker, tmp_path: Path) -> None:
    with (
        Subscriber(broker) as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port) as publisher,
    ):
        wait_until(lambda: publisher.link.connected)
        publisher.set_activity("building the engine", 0.25)
        subscriber.wait_for(lambda m: states(m)[-1:] == ["starting"])
        publisher.set_activity(None)
        messages = subscriber.wait_for(lambda m: states(m)[-2:] == ["starting", "running"])
        shown = [json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/status"]
        assert (shown[-2]["activity"], shown[-2]["progress"]) == ("building the engine", 0.25)
        assert shown[-1]["activity"] is None


@pytest.mark.parametrize("size_bytes", [MAX_INCOMING_BYTES + 1, 200_000_000])
def test_a_message_larger_than_the_device_reads_costs_no_memory(tmp_path: Path, size_bytes: int) -> None:
    """MQTT 3.1.1 has no way to forbid it; this broker sends it as fast as it is taken."""
    with _SendingBroker(size_bytes) as server, Outbox(tmp_path / "o.sqlite") as outbox:
        tracemalloc.start()
        try:
            with publishing(outbox, server.port, inlet=CommandInlet(lambda _: None), protocol="3.1.1"):
                wait_until(lambda: server.connections >= 2)
                assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
        assert server.taken_bytes < 16 << 20, "the connection ended before the message was sent"


def test_an_oversize_retained_message_stops_commands_for_a_while_and_results_still_arrive(
    broker: Broker, plant: mqtt.Client, tmp_path: Path
) -> None:
    sent = plant.publish(f"{ROOT}/cmd/status", bytes(1 << 20), 1, retain=True)
    sent.wait_for_publish(10)
    inlet = CommandInlet(lambda _: None)
    with (
        Subscriber(broker, f"{ROOT}/result") as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, inlet=inlet, protocol="3.1.1") as publisher,
    ):
        wait_until(lambda: publisher.link.connections == 2 and publisher.link.connected)
        put_results(outbox, 50)
        assert sequence(subscriber.wait_for(lambda m: len(sequence(m)) == 50)) == list(range(1, 51))
        assert inlet.problems() == {FaultId.COMMAND_FLOOD: "1 were dropped unread since the start"}
        assert publisher.link.connections == 2, "the retained message does not end the next connection, too"
    plant.loop_stop()


class _SendingBroker:
    """Accepts connections of MQTT 3.1.1 and answers SUBSCRIBE with one message of `size_bytes` zeros."""

    def __init__(self, size_bytes: int) -> None:
        self.connections = self.taken_bytes = 0
        self._size_bytes = size_bytes
        self._server = socket.create_server((HOST, 0))
        self.port: int = self._server.getsockname()[1]

    def __enter__(self) -> _SendingBroker:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error), client, client.makefile("rb") as packets:
            while head := packets.read(1):
                length = shift = 0
                while (byte := packets.read(1)[0]) >= 128:
                    length, shift = length + ((byte & 127) << shift), shift + 7
                body = packets.read(length + (byte << shift))
                kind = head[0] >> 4
                if kind == 1:
                    client.sendall(b"\x20\x02\x00\x00")
                elif kind == 3:
                    topic_bytes = struct.unpack_from(">H", body)[0]
                    client.sendall(b"\x40\x02" + body[2 + topic_bytes : 4 + topic_bytes])
                elif kind == 8:
                    self._send_message(client)

    def _send_message(self, client: socket.socket) -> None:
        topic = f"{ROOT}/cmd/status".encode()
        left = 2 + len(topic) + self._size_bytes
        sizes = bytearray()
        while not sizes or left:
            sizes.append(left % 128 | (128 if left >= 128 else 0))
            left //= 128
        client.sendall(b"\x30" + sizes + struct.pack(">H", len(topic)) + topic)
        rest, block = self._size_bytes, bytes(1 << 16)
        while rest:
            client.sendall(block[:rest])
            self.taken_bytes += min(rest, len(block))
            rest -= min(rest, len(block))
