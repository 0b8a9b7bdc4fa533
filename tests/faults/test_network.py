"""Network and broker faults: the publisher loses nothing, keeps the order, and repeats little."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.mqtt import publisher as publisher_module
from edge.outbox.outbox import Outbox
from tests.support.broker import Broker, Received, Subscriber, running_broker
from tests.support.publishing import ROOT, publishing, put_results, quarantined, sequence, wait_until
from tests.support.tcp_proxy import TcpProxy


def repetitions(messages: list[Received]) -> int:
    """The number of repeated results."""
    numbers = [json.loads(m.payload)["seq"] for m in messages if m.topic == f"{ROOT}/result"]
    return len(numbers) - len(set(numbers))


def reset(proxy: TcpProxy) -> None:
    proxy.reset()


def refuse(proxy: TcpProxy) -> None:
    proxy.refusing = True
    proxy.reset()
    time.sleep(1.0)
    proxy.refusing = False


def stall(proxy: TcpProxy) -> None:
    proxy.silent = True
    time.sleep(1.0)
    proxy.silent = False


@pytest.mark.parametrize("fault", [reset, pytest.param(refuse, marks=pytest.mark.slow), stall])
def test_connection_faults_lose_nothing(fault: Callable[[TcpProxy], None], broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
        TcpProxy(broker.port) as proxy,
        publishing(outbox, proxy.port) as publisher,
    ):
        for number in range(3):
            put_results(outbox, 400)
            wait_until(lambda: publisher.link.sent > 400 * number + 20)  # noqa: B023  (called within the round)
            fault(proxy)
        messages = subscriber.wait_for(lambda m: len(sequence(m)) == 1200, 20)
        wait_until(lambda: outbox.backlog() == 0)
    assert sequence(messages) == list(range(1, 1201))
    assert repetitions(messages) <= 3 * 20
    assert quarantined(path) == []


def test_a_connection_without_answers_is_detected_and_closed(broker: Broker, tmp_path: Path) -> None:
    """The kernel of the proxy still acknowledges bytes, so only MQTT keep-alive can detect the fault, not TCP."""
    with (
        Outbox(tmp_path / "o.sqlite") as outbox,
        Subscriber(broker) as subscriber,
        TcpProxy(broker.port) as proxy,
        publishing(outbox, proxy.port, keepalive_s=2) as publisher,
    ):
        wait_until(lambda: publisher.link.connected)
        proxy.silent = True
        started_s = time.monotonic()
        put_results(outbox, 5)
        wait_until(lambda: not publisher.link.connected, 15)
        assert time.monotonic() - started_s < 2 * 2 + 2  # two keep-alives, and paho looks once a second
        proxy.reset()
        proxy.silent = False
        assert sequence(subscriber.wait_for(lambda m: len(sequence(m)) == 5)) == [1, 2, 3, 4, 5]


def test_a_slow_connection_delivers_everything_in_order(broker: Broker, tmp_path: Path) -> None:
    with (
        Outbox(tmp_path / "o.sqlite") as outbox,
        Subscriber(broker) as subscriber,
        TcpProxy(broker.port) as proxy,
        publishing(outbox, proxy.port) as publisher,
    ):
        proxy.delay_s = 0.05
        put_results(outbox, 200)
        messages = subscriber.wait_for(lambda m: len(sequence(m)) == 200)
        assert sequence(messages) == list(range(1, 201))
        assert publisher.link.connections == 1


def test_a_late_connack_is_accepted_and_a_missing_one_times_out(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "CONNACK_TIMEOUT_S", 1.0)
    with (
        Outbox(tmp_path / "o.sqlite") as outbox,
        TcpProxy(broker.port) as proxy,
    ):
        proxy.delay_s = 0.3
        with publishing(outbox, proxy.port) as publisher:
            wait_until(lambda: publisher.link.connected)
        proxy.silent = True
        with publishing(outbox, proxy.port) as publisher:
            wait_until(lambda: publisher.link.detail == "the broker does not answer")
            proxy.silent = False
            wait_until(lambda: publisher.link.connected)


def test_a_broker_that_lowers_its_limits_or_loses_its_sessions_is_handled(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with running_broker(tmp_path) as broker, Outbox(path) as outbox, publishing(outbox, broker.port) as publisher:
        put_results(outbox, 100)
        wait_until(lambda: outbox.backlog() == 0)
        broker.kill()
        broker.forget("max_packet_size 1000\nmax_inflight_messages 2\n")
        broker.start()
        with Subscriber(broker) as subscriber:
            put_results(outbox, 100)
            subscriber.wait_for(lambda m: 200 in sequence(m))
            found = sequence(subscriber.messages)
            assert found == sorted(found)
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.connections == 2
    assert quarantined(path) == []
