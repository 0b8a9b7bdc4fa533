"""What a broker refused comes back by itself when its rules or limits are mended, in order, with an event."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from edge.messages import Trigger
from edge.mqtt import refused_retry
from edge.outbox.outbox import Outbox
from tests.doubles.scripted_broker import Published, ScriptedBroker
from tests.support.broker import Broker, Received, Subscriber, running_broker
from tests.support.publishing import ROOT, publishing, put_results, quarantined, sequence, wait_until


@pytest.fixture(autouse=True)
def _tries_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_retry, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(refused_retry, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(refused_retry, "FIRST_HANG_UP_PAUSE_S", 1.0)
    monkeypatch.setattr(refused_retry, "_LOOK_S", 0.1)


def put(outbox: Outbox, count: int, fill: int = 0) -> None:
    """Add `count` results that can be marked as backfill."""
    first = outbox.next_seq()
    for seq in range(first, first + count):
        outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
        body = {"seq": seq, "backfill": False, "fill": "x" * fill}
        outbox.close_trigger(seq, json.dumps(body, separators=(",", ":")).encode())
    assert outbox.flush(5)


def marks(messages: list[Received]) -> list[tuple[int, bool]]:
    """Number and backfill mark of each result."""
    results = [json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/result"]
    return [(r["seq"], r["backfill"]) for r in results]


def events(messages: list[Received], fault: str = "messages_returned") -> list[str]:
    """The details of the events about one fault."""
    found = [json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/event"]
    return [event["detail"] for event in found if event["fault"] == fault]


def reload_rules(broker: Broker) -> None:
    """Have the broker read its access rules again, without a new connection."""
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGHUP)


def test_results_refused_by_access_rules_come_back_in_order_on_the_same_connection(tmp_path: Path) -> None:
    rules, path = tmp_path / "rules", tmp_path / "o.sqlite"
    rules.write_text(f"topic read #\ntopic write {ROOT}/status\ntopic write {ROOT}/event\n")
    with (
        running_broker(tmp_path, f"acl_file {rules}") as broker,
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
    ):
        put(outbox, 41)
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: len(quarantined(path)) == 41)
            rules.write_text(f"topic read #\ntopic write {ROOT}/#\n")
            reload_rules(broker)
            messages = subscriber.wait_for(lambda m: len(marks(m)) == 41)
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.connections == 1
            messages = subscriber.wait_for(lambda m: len(events(m)) == 1)
    assert marks(messages) == [(seq, True) for seq in range(1, 42)]
    assert events(messages) == ["41 results set aside; the reason was: the broker refused it: Not authorized"]
    assert quarantined(path) == []


def test_with_parts_passing_the_mended_rule_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_retry, "FIRST_PAUSE_S", 600.0)
    monkeypatch.setattr(refused_retry, "LONGEST_PAUSE_S", 600.0)
    forbidden = True
    path = tmp_path / "o.sqlite"
    with (
        ScriptedBroker(lambda p: 0x87 if forbidden and p.topic.endswith("/result") else 0) as broker,
        Outbox(path) as outbox,
        publishing(outbox, broker.port),
    ):
        put(outbox, 5)
        wait_until(lambda: len(quarantined(path)) == 5)
        forbidden = False
        put(outbox, 1)
        wait_until(lambda: quarantined(path) == [] and outbox.backlog() == 0)
        results = [json.loads(p.payload) for p in broker.published if p.topic.endswith("/result")]
        assert [(r["seq"], r["backfill"]) for r in results[5:]] == [(6, False), *((seq, True) for seq in range(1, 6))]


def test_a_new_connection_tries_at_once_and_a_restart_of_the_device_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_retry, "FIRST_PAUSE_S", 600.0)
    path = tmp_path / "o.sqlite"
    forbidden = True
    with ScriptedBroker(lambda p: 0x87 if forbidden and p.topic.endswith(("/result", "/event")) else 0) as broker:
        with Outbox(path) as outbox, publishing(outbox, broker.port):
            put_results(outbox, 3)
            wait_until(lambda: len(quarantined(path)) == 6)  # each result, and the event about it
        forbidden = False
        with Outbox(path) as outbox, publishing(outbox, broker.port):
            wait_until(lambda: quarantined(path) == [] and outbox.backlog() == 0)


def test_a_result_too_large_comes_back_after_the_limit_was_raised(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        with running_broker(tmp_path, "max_packet_size 2000") as broker, publishing(outbox, broker.port):
            put(outbox, 2)
            put(outbox, 2, fill=3000)
            wait_until(lambda: len(quarantined(path)) == 2 and outbox.backlog() == 0)
            assert outbox.replays.ask(outbox.epoch, 1, 4) == 2  # it counts what the broker can take
        with (
            running_broker(tmp_path) as broker,
            Subscriber(broker) as subscriber,
            publishing(outbox, broker.port),
        ):
            messages = subscriber.wait_for(lambda m: {3, 4} <= set(sequence(m)) and len(events(m)) == 1)
    assert [mark for mark in marks(messages) if mark[0] > 2] == [(3, True), (4, True)]
    assert events(messages)[0].startswith("2 messages set aside; the reason was: they were too large")
    assert quarantined(path) == []


def test_results_on_which_the_broker_hung_up_come_back(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    hangs_up = True

    def answer(published: Published) -> int | None:
        if hangs_up and b'"seq":2,' in published.payload:
            broker.drop()
            return None
        return 0

    with ScriptedBroker(answer) as broker, Outbox(path) as outbox, publishing(outbox, broker.port):
        put(outbox, 3)
        wait_until(lambda: len(quarantined(path)) == 1 and outbox.backlog() == 0, 15)
        hangs_up = False
        wait_until(lambda: quarantined(path) == [], 10)


def test_a_result_that_stays_refused_costs_little_and_holds_up_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        ScriptedBroker(lambda p: 0x99 if p.payload == b'{"seq": 2}' else 0) as broker,
        Outbox(path) as outbox,
        publishing(outbox, broker.port) as publisher,
    ):
        put_results(outbox, 4)
        wait_until(lambda: broker.payloads().count(b'{"seq": 2}') >= 3)
        put_results(outbox, 4)
        wait_until(lambda: outbox.backlog() == 0)
        assert publisher.link.connections == 1
        assert publisher.link.quarantined == 1
        assert quarantined(path) == [(2, "the broker refused it: Payload format invalid")]
        with sqlite3.connect(path) as db:
            (events_stored,) = db.execute("SELECT COUNT(*) FROM messages WHERE kind = 'event'").fetchone()
        assert events_stored == 1


def test_a_replay_sends_refused_results_once_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_retry, "FIRST_PAUSE_S", 600.0)
    path = tmp_path / "o.sqlite"
    refused = {b'{"seq": 2}', b'{"seq": 3}'}
    with (
        ScriptedBroker(lambda p: 0x87 if p.payload in refused else 0) as broker,
        Outbox(path) as outbox,
        publishing(outbox, broker.port),
    ):
        put_results(outbox, 4)
        wait_until(lambda: len(quarantined(path)) == 2 and outbox.backlog() == 0)
        refused.clear()
        seen = len(broker.payloads())
        assert outbox.replays.ask(outbox.epoch, 1, 4) == 4
        outbox.wakeup.set()
        wait_until(lambda: quarantined(path) == [] and outbox.replays.page(None, 1) == [])
        again = [p for p in broker.payloads()[seen:] if b'"seq"' in p[:6]]
        assert again == [b'{"seq": %d}' % n for n in (1, 2, 3, 4)]
