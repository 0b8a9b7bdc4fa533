"""Two clients with one client id: no message is blamed, the device backs off, and the client id is named."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest

from edge.mqtt.client_id_watch import OVER_S, SHORT_LIFE_S, ClientIdWatch
from edge.outbox.outbox import Outbox
from tests.support.broker import Subscriber, running_broker
from tests.support.publishing import publishing, put_results, quarantined, wait_until


def client_id_events(path: Path) -> list[str]:
    """Details of the stored events about the client id."""
    with sqlite3.connect(path) as db:
        payloads = db.execute("SELECT payload FROM messages WHERE kind = 'event'").fetchall()
    events = [json.loads(payload) for (payload,) in payloads]
    return [event["detail"] for event in events if event["fault"] == "client_id_in_use"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_two_devices_with_one_client_id_lose_nothing_back_off_and_name_the_client_id(
    tmp_path: Path, protocol: str
) -> None:
    paths = tmp_path / "one.sqlite", tmp_path / "two.sqlite"
    with (
        running_broker(tmp_path) as broker,
        Subscriber(broker),
        Outbox(paths[0]) as one,
        Outbox(paths[1]) as two,
        publishing(one, broker.port, protocol=protocol) as first,
        publishing(two, broker.port, protocol=protocol) as second,
    ):
        until_s = time.monotonic() + 8
        while time.monotonic() < until_s:
            put_results(one, 5)
            put_results(two, 5)
            time.sleep(0.1)
        assert first.link.connections + second.link.connections <= 16
        wait_until(lambda: all(client_id_events(path) for path in paths), 90)
    assert all(quarantined(path) == [] for path in paths)
    assert all("client id edge-1" in client_id_events(path)[0] for path in paths)
    assert all(len(client_id_events(path)) == 1 for path in paths)


def ended(watch: ClientIdWatch, now_s: float, suspect: int | None = None, lived_s: float = 1.0) -> None:
    watch.ended(now_s, lived_s=lived_s, cut_off=True, taken_over=False, idle=suspect is None, suspect=suspect)


def test_a_message_that_the_broker_hangs_up_on_is_not_taken_for_another_client() -> None:
    watch = ClientIdWatch("edge-1")
    for number, suspect in enumerate([None, 7, 7, 7, 8, 8, 8, None]):
        ended(watch, float(number), suspect)
    assert watch.problem(8.0) is None


def test_cuts_at_different_places_are_and_a_calm_connection_or_a_broker_that_is_down_are_not() -> None:
    watch = ClientIdWatch("edge-1")
    ended(watch, 0.0, 1)
    ended(watch, 1.0)
    watch.not_accepted()
    ended(watch, 2.0, 2)
    ended(watch, 3.0)
    ended(watch, 4.0, 3, lived_s=SHORT_LIFE_S + 1)
    ended(watch, 5.0)
    ended(watch, 6.0, 3)
    assert watch.problem(6.0) is None
    ended(watch, 7.0)
    assert "client id edge-1" in str(watch.problem(7.0))
    assert watch.problem(7.0 + OVER_S + 1) is None


def test_five_cuts_under_load_are_another_client() -> None:
    watch = ClientIdWatch("edge-1")
    for number in range(5):
        assert watch.problem(float(number)) is None
        watch.ended(float(number), lived_s=1.0, cut_off=True, taken_over=False, idle=False, suspect=None)
    assert "client id edge-1" in str(watch.problem(5.0))


def test_a_broker_that_says_taken_over_is_believed_at_once() -> None:
    watch = ClientIdWatch("edge-1")
    watch.ended(0.0, lived_s=100.0, cut_off=False, taken_over=True, idle=True, suspect=None)
    assert "client id edge-1" in str(watch.problem(1.0))
