"""Stored results are marked as backfill; requested results are sent again after new ones."""

from __future__ import annotations

import json
from pathlib import Path

from edge.messages import Trigger
from edge.mqtt.result_replay import ResultReplay
from edge.outbox.outbox import Outbox
from tests.support.broker import Broker, Received, Subscriber
from tests.support.publishing import ROOT, publishing, wait_until


def put(outbox: Outbox, count: int, text: str = "") -> None:
    """Add `count` results with a text that must not be changed by the marking."""
    first = outbox.next_seq()
    for seq in range(first, first + count):
        outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
        payload = json.dumps({"partId": text, "seq": seq, "backfill": False}, separators=(",", ":"))
        outbox.close_trigger(seq, payload.encode())
    assert outbox.flush(40)


def marks(messages: list[Received]) -> list[tuple[int, bool]]:
    """Number and backfill mark of each result."""
    results = [json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/result"]
    return [(r["seq"], r["backfill"]) for r in results]


def test_only_results_stored_before_the_connection_are_marked(broker: Broker, tmp_path: Path) -> None:
    hostile = '"backfill":false'
    with Outbox(tmp_path / "o.sqlite") as outbox, Subscriber(broker) as subscriber:
        put(outbox, 2, hostile)
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: publisher.link.sent == 2)
            put(outbox, 1, hostile)
            messages = subscriber.wait_for(lambda m: len(marks(m)) == 3)
    assert marks(messages) == [(1, True), (2, True), (3, False)]
    assert {json.loads(m.payload)["partId"] for m in messages if m.topic == f"{ROOT}/result"} == {hostile}


def test_replayed_results_are_marked_and_a_replay_continues_after_a_broken_connection(
    broker: Broker, tmp_path: Path
) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox, Subscriber(broker) as subscriber:
        with publishing(outbox, broker.port) as publisher:
            put(outbox, 300)
            subscriber.wait_for(lambda m: len(marks(m)) == 300)
            wait_until(lambda: outbox.backlog() == 0)
            assert outbox.replays.ask(outbox.epoch, 50, 250) == 201
            outbox.wakeup.set()
            subscriber.wait_for(lambda m: len(marks(m)) > 320)
            broker.stop()
            put(outbox, 2)
            broker.start()
            wait_until(lambda: publisher.link.connections == 2)
            wait_until(lambda: outbox.replays.page(None, 1) == [])
            assert outbox.replays.ask(outbox.epoch, 1, 3) == 3
            messages = subscriber.wait_for(lambda m: marks(m)[-3:] == [(1, True), (2, True), (3, True)])
        found = marks(messages)
        again = [seq for seq, _ in found[300:-3]]
        assert list(dict.fromkeys(seq for seq in again if seq <= 250)) == list(range(50, 251))
        assert all(marked for seq, marked in found[300:] if seq <= 250)
        assert len(again) <= 201 + 2 + 40
        assert publisher.link.sent == 302


def test_replayed_results_are_acknowledged_only_up_to_the_first_gap(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        put(outbox, 4)
        outbox.acknowledge([m.message_id for m in outbox.unacknowledged(0, 10)])
        assert outbox.flush(40)
        outbox.replays.ask(outbox.epoch, 1, 4)
        assert outbox.flush(40)
        replay = ResultReplay(outbox)
        first, second, third = (replay.next() for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is not None
        replay.mark_done(second)
        replay.mark_done(third)
        assert outbox.flush(40)
        assert [m.seq for m in outbox.replays.page(None, 10)] == [1, 2, 3, 4]
        replay.mark_done(first)
        assert outbox.flush(40)
        assert [m.seq for m in outbox.replays.page(None, 10)] == [4]
