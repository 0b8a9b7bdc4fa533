"""What a connection said before its end counts: the last PUBACKs, and a retained copy that was not sent yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.mqtt.across_connections import AcrossConnections, Tally
from edge.mqtt.best_effort import BestEffortQueue
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Connection
from edge.mqtt.delivery import Delivery
from edge.mqtt.frame_sender import FramePace
from edge.mqtt.occurrences import Connected
from edge.mqtt.poison_message import PoisonMessageFinder
from edge.mqtt.refused_retry import RefusedRetry
from edge.mqtt.refused_topics import RefusedTopics
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from tests.doubles.scripted_broker import ScriptedBroker
from tests.support.publishing import DEVICE, ROOT, publishing, put_results, wait_until


def test_pubacks_that_came_before_the_end_count_also_if_a_publish_notices_the_end(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda _: 0, hangs_up_after=lambda p: b'"seq": 2' in p.payload) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        settings = MqttSettings(host=broker.host, port=broker.port)
        connection = Connection(settings, DEVICE.device, None, outbox.wakeup)
        connection.open()
        (connected,) = _occurrences(connection)
        assert isinstance(connected, Connected)
        delivery = Delivery(connection, connected, outbox, None, _across(outbox))
        put_results(outbox, 2)
        delivery.step()
        wait_until(connection._ended.is_set)
        with pytest.raises(LinkError, match="not currently connected") as noticed:
            delivery.publish_status(b"{}", 5.0)
        reason = delivery.finish(noticed.value)
        assert (str(reason), reason.cut_off) == ("the broker closed the connection", True)
        assert delivery.window.topic_names == ["status"], "it may have been sent"
        assert outbox.flush(5)
        assert outbox.backlog() == 0
        connection.abandon()


def test_the_retained_copy_of_a_result_acknowledged_at_the_end_is_sent_over_the_next_connection(tmp_path: Path) -> None:
    ended = False

    def first_result(published: object) -> bool:
        nonlocal ended
        before, ended = ended, ended or getattr(published, "topic", "") == f"{ROOT}/result"
        return ended and not before

    with ScriptedBroker(lambda _: 0, hangs_up_after=first_result) as broker, Outbox(tmp_path / "o.sqlite") as outbox:
        put_results(outbox, 1)
        with publishing(outbox, broker.port):
            wait_until(lambda: any(p.topic == f"{ROOT}/result/last" for p in broker.published))
        assert [p.connection for p in broker.published if p.topic == f"{ROOT}/result"] == [1]
        (last,) = [p for p in broker.published if p.topic == f"{ROOT}/result/last"]
        assert (last.connection, last.payload) == (2, b'{"seq": 1}')


def _occurrences(connection: Connection) -> list[object]:
    found: list[object] = []

    def something() -> bool:
        found.extend(connection.occurrences())
        return bool(found)

    wait_until(something)
    return found


def _across(outbox: Outbox) -> AcrossConnections:
    return AcrossConnections(
        ROOT,
        DEVICE.device,
        Tally(),
        PoisonMessageFinder(),
        RefusedRetry(outbox),
        RefusedTopics(lambda _: None),
        FramePace(600),
        BestEffortQueue(f"{ROOT}/metrics"),
    )
