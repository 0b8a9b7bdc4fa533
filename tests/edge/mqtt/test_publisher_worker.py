"""Publisher and command inlet as workers of the daemon: state, problems, and a stop within its time."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.faults import FaultId
from edge.messages import Trigger
from edge.mqtt.inlet import CommandInlet, Incoming
from edge.mqtt.link import PATIENCE_S, Link
from edge.mqtt.publisher import Publisher
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from edge.worker import Worker, WorkerState
from tests.doubles.clock import MonotonicClock
from tests.doubles.scripted_broker import ScriptedBroker
from tests.support.broker import HOST, free_port
from tests.support.publishing import DEVICE, wait_until


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While another program holds the lock of the database, nothing is committed."""
    with sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def publisher_at(outbox: Outbox, port: int) -> Publisher:
    return Publisher(outbox, None, MqttSettings(host=HOST, port=port), DEVICE)


def put_uncommitted(outbox: Outbox) -> None:
    outbox.open_trigger(Trigger(1, "f1", None, 1, "2026-01-01T00:00:00Z", 0))
    outbox.close_trigger(1, json.dumps({"seq": 1}).encode())


def test_both_are_workers_and_tell_their_state(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        workers: tuple[Worker, ...] = (CommandInlet(lambda _: None), publisher_at(outbox, free_port()))
        assert [worker.name for worker in workers] == ["commands", "publisher"]
        for worker in workers:
            states = [worker.state]
            worker.start()
            states.append(worker.state)
            assert worker.name in {thread.name for thread in threading.enumerate()}
            assert worker.stop()
            assert [*states, worker.state] == [WorkerState.WAITING, WorkerState.RUNNING, WorkerState.ENDED]
            assert worker.name not in {thread.name for thread in threading.enumerate()}


def test_a_worker_that_was_never_started_stops_at_once(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        assert CommandInlet(lambda _: None).stop()
        assert publisher_at(outbox, free_port()).stop()


def test_a_broker_out_of_reach_is_a_problem_with_its_reason_until_there_is_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.mqtt.link.PATIENCE_S", 0.2)
    with Outbox(tmp_path / "o.sqlite") as outbox:
        port = free_port()
        publisher = publisher_at(outbox, port)
        publisher.start()
        wait_until(lambda: "refused" in (publisher.problems()[FaultId.BROKER_UNREACHABLE] or ""))
        publisher.stop()
        with ScriptedBroker(lambda _: 0) as broker:
            publisher = publisher_at(outbox, broker.port)
            publisher.start()
            wait_until(lambda: publisher.link.connected)
            assert publisher.problems() == {FaultId.BROKER_UNREACHABLE: None}
            publisher.stop()


def test_a_broker_may_be_out_of_reach_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MonotonicClock()
    monkeypatch.setattr("edge.mqtt.link.time", clock)
    link = Link("broker:1883")
    clock.now_s += PATIENCE_S
    assert link.problem() is None
    clock.now_s += 0.1
    assert link.problem() == "not connected yet"
    link.lost("refused")
    assert link.problem() == "refused"
    link.connected()
    clock.now_s += 100
    assert link.problem() is None
    link.lost("cut off")
    clock.now_s += PATIENCE_S
    assert link.problem() is None
    link.lost("refused")
    clock.now_s += 0.1
    assert link.problem() == "refused"


def test_the_stop_sends_also_what_is_not_on_the_disk_yet(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with ScriptedBroker(lambda _: 0) as broker, Outbox(path) as outbox:
        publisher = publisher_at(outbox, broker.port)
        publisher.start()
        wait_until(lambda: publisher.link.connected)
        stopped: list[bool] = []
        stopping = threading.Thread(target=lambda: stopped.append(publisher.stop()))
        with locked(path):
            put_uncommitted(outbox)
            stopping.start()
            stopping.join(0.5)
            assert broker.payloads() == []
        stopping.join(30)
        assert stopped == [True]
        assert broker.payloads() == [b'{"seq": 1}']
        assert outbox.flush(10)
        assert outbox.backlog() == 0


def test_a_disk_that_takes_nothing_is_told_and_the_stop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge.mqtt.publisher.COMMIT_S", 0.2)
    path = tmp_path / "o.sqlite"
    with ScriptedBroker(lambda _: 0) as broker, Outbox(path) as outbox:
        publisher = publisher_at(outbox, broker.port)
        publisher.start()
        wait_until(lambda: publisher.link.connected)
        with locked(path), caplog.at_level(logging.ERROR):
            put_uncommitted(outbox)
            assert not publisher.stop()
        assert publisher.state is WorkerState.ENDED
        assert "results cannot be written to the disk" in caplog.text
        assert json.loads(broker.published[-1].payload)["state"] == "stopped"


def test_a_command_that_takes_too_long_is_left_at_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.mqtt.inlet.STOP_S", 0.1)
    begun, release = threading.Event(), threading.Event()

    def handle(_: Incoming) -> None:
        begun.set()
        release.wait(30)

    inlet = CommandInlet(handle)
    inlet.start()
    assert inlet.put(Incoming("cmd/x", b"", False, None, None))
    assert begun.wait(30)
    assert not inlet.stop()
    release.set()
    wait_until(lambda: inlet.state is WorkerState.ENDED)
