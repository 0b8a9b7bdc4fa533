"""The publisher against a real mosquitto, and against a broker that misbehaves on purpose."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.geometry import Geometry
from edge.messages import MAIN_VIEW, Decision, Frame, Inspection, Timings, Trigger, Verdict, View
from edge.mqtt import delivery as delivery_module
from edge.mqtt import publisher as publisher_module
from edge.outbox.outbox import Outbox
from edge.policy import Policy
from tests.doubles.scripted_broker import Published, ScriptedBroker
from tests.support.broker import Broker, Received, Subscriber, free_port, running_broker
from tests.support.publishing import ROOT, publishing, put_results, quarantined, sequence, states, wait_until
from tests.support.recipes import recipe_of

REPOSITORY = Path(__file__).parents[3]


RECIPE = recipe_of(Policy((), None), left=Geometry())


def test_a_backlog_and_new_results_arrive_once_and_in_order(broker: Broker, tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox, Subscriber(broker) as subscriber:
        put_results(outbox, 300)
        with publishing(outbox, broker.port) as publisher:
            subscriber.wait_for(lambda m: len(sequence(m)) == 300)
            put_results(outbox, 50)
            messages = subscriber.wait_for(lambda m: len(sequence(m)) == 350)
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.connected
            assert publisher.link.sent == 350
        assert sequence(messages) == list(range(1, 351))
        assert len([m for m in messages if m.topic == f"{ROOT}/result"]) == 350
        assert states(subscriber.wait_for(lambda m: len(states(m)) == 2)) == ["running", "stopped"]
        assert not publisher.link.connected


def test_the_status_tells_the_active_faults_and_again_when_they_change_while_nothing_can_be_stored(
    broker: Broker, tmp_path: Path
) -> None:
    active: list[FaultId] = []

    def faults(messages: list[Received]) -> list[list[str]]:
        return [json.loads(m.payload)["faults"] for m in messages if m.topic == f"{ROOT}/status"]

    path = tmp_path / "o.sqlite"
    with (
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
        publishing(outbox, broker.port, active_faults=lambda: tuple(active)),
    ):
        subscriber.wait_for(lambda m: faults(m) == [[]])
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")  # the outbox cannot write
            active.append(FaultId.OUTBOX_FAILED)
            subscriber.wait_for(lambda m: faults(m) == [[], ["outbox_failed"]])
            active.append(FaultId.DISK_LOW)
            subscriber.wait_for(lambda m: faults(m)[-1] == ["outbox_failed", "disk_low"])
            other.execute("ROLLBACK")
        active.clear()
        messages = subscriber.wait_for(lambda m: len(faults(m)) == 4)
        assert faults(messages)[-1] == []
        assert set(states(messages)) == {"running"}


def test_a_broker_that_is_absent_at_start_is_found_later(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    with Outbox(tmp_path / "o.sqlite") as outbox, publishing(outbox, broker.port) as publisher:
        put_results(outbox, 20)
        wait_until(lambda: "refused" in publisher.link.detail)
        assert outbox.backlog() == 20
        broker.start()
        try:
            with Subscriber(broker) as subscriber:
                wait_until(lambda: outbox.backlog() == 0)
                put_results(outbox, 1)
                subscriber.wait_for(lambda m: 21 in sequence(m))
                assert states(subscriber.messages) == ["running"]
        finally:
            broker.kill()


def test_after_restarts_of_the_broker_all_results_arrive_in_order(broker: Broker, tmp_path: Path) -> None:
    with (
        Subscriber(broker) as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port) as publisher,
    ):
        for seen in (50, 450, 850):
            put_results(outbox, 400)
            wait_until(lambda: publisher.link.sent > seen)  # noqa: B023  (called within the round)
            broker.stop()
            put_results(outbox, 10)
            broker.start()
        messages = subscriber.wait_for(lambda m: len(sequence(m)) == 1230)
        assert sequence(messages) == list(range(1, 1231))
        wait_until(lambda: outbox.backlog() == 0)


def test_after_a_kill_of_the_broker_every_unacknowledged_result_arrives(tmp_path: Path) -> None:
    """A wrong password keeps the publisher out until the subscriber is back.

    A killed mosquitto loses messages that it acknowledged and had not delivered yet; a publisher cannot detect that.
    """
    passwords, password_file = tmp_path / "passwords", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "edge", "right"], check=True)
    password_file.write_text("right\n")
    password_file.chmod(0o600)
    with (
        running_broker(tmp_path, f"password_file {passwords}") as broker,
        Subscriber(broker) as subscriber,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, username="edge", password_file=password_file) as publisher,
    ):
        put_results(outbox, 400)
        subscriber.wait_for(lambda m: len(sequence(m)) > 50)
        password_file.write_text("wrong\n")
        broker.kill()
        wait_until(lambda: not publisher.link.connected)
        assert outbox.flush(40)
        acknowledged = 400 - outbox.backlog()
        assert acknowledged < 400
        put_results(outbox, 10)
        broker.start()
        subscriber.wait_subscribed(times=2)
        password_file.write_text("right\n")
        found = sequence(subscriber.wait_for(lambda m: 410 in sequence(m)))
        assert found == sorted(found)
        assert set(range(acknowledged + 1, 411)) <= set(found)
        wait_until(lambda: outbox.backlog() == 0)


def test_a_killed_device_is_reported_offline_and_the_status_is_retained(broker: Broker, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from edge.contract.topics import DeviceSettings
        from edge.mqtt.settings import MqttSettings
        from edge.outbox.outbox import Outbox
        from edge.mqtt.publisher import Publisher

        outbox = Outbox(Path(sys.argv[1]))
        outbox.start()
        device = DeviceSettings(enterprise="works", line="line-1", device="edge-1")
        Publisher(outbox, None, MqttSettings(host="127.0.0.1", port=int(sys.argv[2])), device).start()
        time.sleep(60)
        """
    )
    with Subscriber(broker) as subscriber:
        victim = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "o.sqlite"), str(broker.port)], cwd=REPOSITORY
        )
        try:
            subscriber.wait_for(lambda m: states(m) == ["running"], 20)
        finally:
            victim.kill()
            victim.wait()
        subscriber.wait_for(lambda m: states(m) == ["running", "offline"])
    with Subscriber(broker) as late:
        (message,) = late.wait_for(lambda m: len(m) == 1)
        assert message.retained
        assert states([message]) == ["offline"]


def test_a_result_over_the_brokers_limit_is_quarantined_with_an_event(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        running_broker(tmp_path, "max_packet_size 2000") as broker,
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
    ):
        put_results(outbox, 2)
        outbox.open_trigger(Trigger(3, "f3", None, 3, "2026-01-01T00:00:00Z", 0))
        outbox.close_trigger(3, json.dumps({"seq": 3, "fill": "x" * 3000}).encode())
        outbox.open_trigger(Trigger(4, "f4", None, 4, "2026-01-01T00:00:00Z", 0))
        outbox.close_trigger(4, b'{"seq": 4}')
        with publishing(outbox, broker.port) as publisher:
            messages = subscriber.wait_for(lambda m: any(x.topic == f"{ROOT}/event" for x in m))
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.quarantined == 1
            assert publisher.link.connections == 1
    assert sequence(messages) == [1, 2, 4]
    event = next(json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/event")
    assert event["fault"] == "message_quarantined"
    assert event["detail"].startswith("result 3: 3")
    ((seq, reason),) = quarantined(path)
    assert seq == 3
    assert "accepts packets of 2000" in reason


def test_results_that_access_rules_forbid_are_quarantined_and_events_still_arrive(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(f"topic read #\ntopic write {ROOT}/status\ntopic write {ROOT}/event\n")
    path = tmp_path / "o.sqlite"
    with (
        running_broker(tmp_path, f"acl_file {rules}") as broker,
        Outbox(path) as outbox,
        Subscriber(broker) as subscriber,
    ):
        put_results(outbox, 3)
        with publishing(outbox, broker.port):
            messages = subscriber.wait_for(lambda m: sum(x.topic == f"{ROOT}/event" for x in m) == 3)
            wait_until(lambda: outbox.backlog() == 0)
    assert sequence(messages) == []
    assert quarantined(path) == [(n, "the broker refused it: Not authorized") for n in (1, 2, 3)]


def test_a_refused_event_is_quarantined_without_an_event_about_it(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        ScriptedBroker(lambda p: 0x87 if p.topic.endswith("/event") else 0) as broker,
        Outbox(path) as outbox,
        publishing(outbox, broker.port),
    ):
        outbox.put_event(b"{}")
        wait_until(lambda: len(quarantined(path)) == 1)
        put_results(outbox, 1)
        wait_until(lambda: outbox.backlog() == 0)
        assert len(broker.payloads()) == 2


def test_one_refused_result_does_not_block_the_others(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with (
        ScriptedBroker(lambda p: 0x99 if p.payload == b'{"seq": 2}' else 0) as broker,
        Outbox(path) as outbox,
    ):
        put_results(outbox, 4)
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: outbox.backlog() == 0 and len(broker.payloads()) == 5)
            assert publisher.link.connections == 1
        assert broker.payloads()[:4] == [b'{"seq": %d}' % n for n in (1, 2, 3, 4)]
    assert quarantined(path) == [(2, "the broker refused it: Payload format invalid")]


def test_never_more_messages_in_flight_than_the_brokers_receive_maximum(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda _: 0, receive_maximum=3, puback_delay_s=0.02) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        put_results(outbox, 30)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0)
        assert broker.most_unanswered == 3
        assert broker.payloads() == [b'{"seq": %d}' % n for n in range(1, 31)]


def test_the_window_is_twenty_if_the_broker_sets_no_limit(tmp_path: Path) -> None:
    with ScriptedBroker(lambda _: 0, puback_delay_s=0.05) as broker, Outbox(tmp_path / "o.sqlite") as outbox:
        put_results(outbox, 60)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0)
        assert broker.most_unanswered == delivery_module.WINDOW == 20


def test_nothing_is_sent_before_a_late_connack(tmp_path: Path) -> None:
    with ScriptedBroker(lambda _: 0, connack_delay_s=0.4) as broker, Outbox(tmp_path / "o.sqlite") as outbox:
        put_results(outbox, 5)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0)
        assert broker.published_before_connack == 0
        assert broker.published[0].topic == f"{ROOT}/status"


def test_a_missing_connack_ends_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "CONNACK_TIMEOUT_S", 0.3)
    with (
        ScriptedBroker(lambda _: 0, connack_delay_s=float("inf")) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port) as publisher,
    ):
        wait_until(lambda: publisher.link.detail == "the broker does not answer")
        assert broker.published == []


def test_the_reason_of_a_refused_connection_is_in_the_state(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda _: 0, connack_reason=0x87) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port) as publisher,
    ):
        wait_until(lambda: publisher.link.detail == "the broker refused the connection: Not authorized")
        assert publisher.link.connections == 0


def test_after_a_broken_connection_sending_starts_at_the_oldest_unacknowledged(tmp_path: Path) -> None:
    def answer(published: Published) -> int | None:
        return None if published.connection == 1 and b'"seq": 2' in published.payload else 0

    with ScriptedBroker(answer) as broker, Outbox(tmp_path / "o.sqlite") as outbox:
        put_results(outbox, 4)
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: len(broker.payloads()) == 4)
            broker.drop()
            wait_until(lambda: outbox.backlog() == 0)
            assert publisher.link.connections == 2
        again = [p.payload for p in broker.published if p.connection == 2 and p.topic.endswith("/result")]
        assert again[0] == b'{"seq": 2}'
        assert again == sorted(again)


def test_missing_pubacks_end_the_connection_and_everything_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "PUBACK_TIMEOUT_S", 0.3)
    with (
        ScriptedBroker(lambda p: None if p.connection == 1 and p.topic.endswith("/result") else 0) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        put_results(outbox, 40)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0)
        second = [p.payload for p in broker.published if p.connection == 2 and p.topic.endswith("/result")]
        assert second == [b'{"seq": %d}' % n for n in range(1, 41)]


def test_a_failing_outbox_does_not_end_the_publisher(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox, publishing(outbox, broker.port) as publisher:
        wait_until(lambda: publisher.link.connected)
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE messages RENAME TO hidden")
        wait_until(lambda: "no such table" in str(outbox.error))
        assert publisher.link.connected
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE hidden RENAME TO messages")
        put_results(outbox, 1)
        wait_until(lambda: outbox.backlog() == 0)
        assert outbox.error is None
        assert publisher.link.connections == 1


def test_stopping_sends_unsent_results_first(broker: Broker, tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox, Subscriber(broker) as subscriber:
        with publishing(outbox, broker.port) as publisher:
            wait_until(lambda: publisher.link.connected)
            put_results(outbox, 200)
        assert outbox.flush(40)
        assert outbox.backlog() == 0
        messages = subscriber.wait_for(lambda m: states(m) == ["running", "stopped"])
        assert sequence(messages) == list(range(1, 201))


def test_stopping_without_a_broker_is_quick_and_keeps_everything(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        with publishing(outbox, free_port()) as publisher:
            put_results(outbox, 5)
            wait_until(lambda: publisher.link.detail != "not connected yet")
            started = time.monotonic()
        assert time.monotonic() - started < 1.0
        assert outbox.backlog() == 5


def test_the_password_is_not_in_the_log_the_state_or_the_publisher(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "correct-horse-battery"  # noqa: S105  (made up here)
    passwords, password_file = tmp_path / "passwords", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "edge", "another"], check=True)
    password_file.write_text(secret + "\n")
    password_file.chmod(0o600)
    with (
        running_broker(tmp_path, f"password_file {passwords}") as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, username="edge", password_file=password_file) as publisher,
    ):
        wait_until(lambda: "Not authorized" in publisher.link.detail or "Bad user" in publisher.link.detail)
        text = repr(publisher.link) + repr(vars(publisher))
        password_file.unlink()
        wait_until(lambda: "password file" in publisher.link.detail)
        password_file.write_text("another\n")
        wait_until(lambda: publisher.link.connected)
    assert secret not in text + caplog.text
    assert "another" not in caplog.text.replace("another process", "")


def test_frames_follow_the_results_one_at_a_time(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda _: 0, puback_delay_s=0.01) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        FrameStore(tmp_path / "frames", 10 << 20) as frames,
    ):
        for seq in (1, 2, 3):
            frames.put(rejected(seq), f"abc-{seq}", RECIPE)
        assert frames.flush(40)
        put_results(outbox, 100)
        with publishing(outbox, broker.port, frames) as publisher:
            wait_until(lambda: publisher.link.frames_sent == 3)
        topics = [p.topic.removeprefix(f"{ROOT}/") for p in broker.published]
        assert topics[-5:-1] == ["result/last", "frame/abc-1/image", "frame/abc-2/image", "frame/abc-3/image"]
        assert all(p.payload.startswith(b"\xff\xd8") for p in broker.published[-4:-1])
        assert frames.next_unsent() is None


def test_a_frame_that_breaks_the_connection_twice_is_given_up(tmp_path: Path) -> None:
    def answer(published: Published) -> int | None:
        if published.topic.endswith("/image"):
            broker.drop()
            return None
        return 0

    with (
        ScriptedBroker(answer) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        FrameStore(tmp_path / "frames", 10 << 20) as frames,
    ):
        frames.put(rejected(1), "abc-1", RECIPE)
        assert frames.flush(40)
        with publishing(outbox, broker.port, frames):
            wait_until(lambda: frames.next_unsent() is None)
            put_results(outbox, 1)
            wait_until(lambda: outbox.backlog() == 0)
        assert sum(p.topic.endswith("/image") for p in broker.published) == 2


def test_a_refused_or_unreadable_frame_is_given_up(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda p: 0x87 if p.topic.endswith("/image") else 0) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        FrameStore(tmp_path / "frames", 10 << 20) as frames,
    ):
        for seq in (1, 2):
            frames.put(rejected(seq), f"abc-{seq}", RECIPE)
        assert frames.flush(40)
        unreadable = frames.next_unsent()
        assert unreadable is not None
        unreadable.path.write_bytes(b"no image")
        with publishing(outbox, broker.port, frames) as publisher:
            wait_until(lambda: frames.next_unsent() is None)
            assert publisher.link.frames_sent == 0
        assert [p.topic for p in broker.published if p.topic.endswith("/image")] == [f"{ROOT}/frame/abc-2/image"]


def test_a_forbidden_topic_of_one_view_holds_up_no_other_view(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda p: 0x87 if p.topic.endswith("/image/left") else 0) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        FrameStore(tmp_path / "frames", 10 << 20) as frames,
    ):
        for seq in (1, 2, 3):
            frames.put(rejected(seq, MAIN_VIEW, "left"), f"abc-{seq}", RECIPE)
        assert frames.flush(40)
        with publishing(outbox, broker.port, frames) as publisher:
            wait_until(lambda: publisher.link.frames_sent == 3)
        images = [p.topic.removeprefix(f"{ROOT}/frame/") for p in broker.published if "/frame/" in p.topic]
        assert images == ["abc-1/image", "abc-1/image/left", "abc-2/image", "abc-3/image"]
        waiting = frames.next_unsent()
        assert waiting is not None
        assert (waiting.result_id, waiting.view) == ("abc-2", "left")


def rejected(seq: int, *views: str) -> Inspection:
    """A rejected part with a small frame of each view, or of the main view alone."""
    pixels = np.full((64, 80), seq, np.uint8)
    frame = Frame(f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0, pixels)
    frames = tuple(View(name, frame) for name in views or (MAIN_VIEW,))
    trigger = Trigger(seq, frame.frame_id, None, seq, "2026-01-01T00:00:00Z", 0, frames)
    return Inspection(trigger, Decision(Verdict.REJECT, ()), (), Timings(), "2026-01-01T00:00:00Z")
