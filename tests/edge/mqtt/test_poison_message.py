"""Messages on which a broker closes the connection are found and quarantined; an outage quarantines nothing."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edge.messages import Trigger
from edge.mqtt.poison_message import CUTS_TO_CONVICT, PoisonMessageFinder
from edge.outbox.outbox import Outbox
from tests.doubles.scripted_broker import Published, ScriptedBroker
from tests.support.broker import Subscriber, running_broker
from tests.support.publishing import ROOT, publishing, put_results, quarantined, sequence, wait_until


def test_a_message_on_which_the_broker_closes_the_connection_is_quarantined_and_the_others_arrive_in_order(
    tmp_path: Path,
) -> None:
    path = tmp_path / "o.sqlite"

    def answer(published: Published) -> int | None:
        if published.payload == b'{"seq": 7}':
            broker.drop()
            return None
        return 0

    with ScriptedBroker(answer) as broker, Outbox(path) as outbox:
        put_results(outbox, 30)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0, 15)
        ((seq, reason),) = quarantined(path)
        assert seq == 7
        assert reason == ("the connection broke at this message 3 times in a row: the broker closed the connection")
        numbers = list(dict.fromkeys(json.loads(p)["seq"] for p in broker.payloads() if b'"seq"' in p[:6]))
        assert [n for n in numbers if n != 7] == [n for n in range(1, 31) if n != 7]
        attempts = [p.connection for p in broker.published if p.payload == b'{"seq": 7}']
        assert attempts == [1, 2, 3, 4]


def test_over_mqtt_3_an_oversize_message_that_breaks_the_connection_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        running_broker(tmp_path, "max_packet_size 2000") as broker,
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
    ):
        outbox.open_trigger(Trigger(1, "f1", None, 1, "2026-01-01T00:00:00Z", 0))
        outbox.close_trigger(1, json.dumps({"seq": 1, "fill": "x" * 3000}).encode())
        assert outbox.flush(40)
        put_results(outbox, 3)
        with publishing(outbox, broker.port, protocol="3.1.1"):
            messages = subscriber.wait_for(lambda m: sequence(m) == [2, 3, 4], 15)
            wait_until(lambda: outbox.backlog() == 0)
    assert [seq for seq, _ in quarantined(path)] == [1]
    status = next(json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/status")
    assert status["activity"].startswith("acceptance unverifiable")


def test_a_broker_that_closes_twice_at_every_result_quarantines_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    seen: dict[bytes, int] = {}

    def answer(published: Published) -> int | None:
        seen[published.payload] = seen.get(published.payload, 0) + 1
        if published.topic.endswith("/result") and seen[published.payload] <= CUTS_TO_CONVICT - 1:
            broker.drop()
            return None
        return 0

    with ScriptedBroker(answer) as broker, Outbox(path) as outbox:
        put_results(outbox, 2)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0, 15)
    assert quarantined(path) == []


def test_messages_refused_by_a_busy_broker_are_sent_again_and_not_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    refusals = {b'{"seq": 2}': [0x97, 0x97], b'{"seq": 3}': [0x97]}

    def answer(published: Published) -> int | None:
        remaining = refusals.get(published.payload, [])
        return remaining.pop() if remaining else 0

    with ScriptedBroker(answer) as broker, Outbox(path) as outbox:
        put_results(outbox, 5)
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.connections == 1
            assert publisher.link.sent == 5
        assert [broker.payloads().count(b'{"seq": %d}' % n) for n in range(1, 6)] == [1, 3, 2, 1, 1]
    assert quarantined(path) == []


ENDS = st.lists(st.tuples(st.lists(st.integers(1, 4), max_size=3, unique=True), st.booleans(), st.booleans()))


@given(ends=ENDS)
def test_only_a_message_that_was_alone_when_three_connections_in_a_row_were_closed_is_given_up(
    ends: list[tuple[list[int], bool, bool]],
) -> None:
    poison_finder = PoisonMessageFinder()
    cuts_in_a_row: list[int] = []
    for in_flight, alone, cut_off in ends:
        given_up = poison_finder.connection_ended(in_flight, alone=alone, cut_off=cut_off)
        if not (len(in_flight) == 1 and alone and cut_off):
            cuts_in_a_row = []
        elif set(cuts_in_a_row) <= set(in_flight):
            cuts_in_a_row = [*cuts_in_a_row, in_flight[0]]
        else:
            cuts_in_a_row = in_flight[:1]
        assert given_up == (cuts_in_a_row[0] if len(cuts_in_a_row) == CUTS_TO_CONVICT else None)
        if given_up is not None:
            cuts_in_a_row = []
        assert poison_finder.send_alone_until_id >= max(in_flight, default=0)
