"""No topic but `result` may stop results: a forbidden one is named, rests, and is tried again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edge.frames.store import FrameStore
from edge.messages import MAIN_VIEW, Decision, Frame, Inspection, Timings, Trigger, Verdict, View
from edge.mqtt import refused_topics
from edge.mqtt.client import LinkError
from edge.mqtt.inlet import CommandInlet
from edge.mqtt.will import WillFallback
from edge.outbox.outbox import Outbox
from edge.policy import Policy
from tests.doubles.scripted_broker import Published, ScriptedBroker
from tests.support.broker import Subscriber, running_broker
from tests.support.publishing import ROOT, publishing, put_results, sequence, states, wait_until
from tests.support.recipes import recipe_of

How = Literal["hang up", "answer"]


RECIPE = recipe_of(Policy((), None))


def named(broker: ScriptedBroker) -> set[str]:
    """Topics named in the events `topic_refused`."""
    events = [json.loads(p.payload) for p in broker.published if p.topic.endswith("/event")]
    return {event["detail"].partition(":")[0] for event in events if event["fault"] == "topic_refused"}


@pytest.mark.parametrize("how", ["hang up", "answer"])
@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("/status", "status"),
        ("/result/last", "result/last"),
        ("/metrics", "metrics"),
        ("/image", "frame/{resultId}/image"),
    ],
)
def test_a_forbidden_topic_holds_up_no_result_is_named_and_is_sent_again_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: How, suffix: str, name: str
) -> None:
    monkeypatch.setattr(refused_topics, "FIRST_REST_S", 2.0)
    monkeypatch.setattr(refused_topics, "ANSWERED_REST_S", 2.0)
    forbidden = True

    def answer(published: Published) -> int | None:
        if not forbidden or not published.topic.endswith(suffix):
            return 0
        if how == "answer":
            return 0x87
        broker.drop()
        return None

    def attempts() -> int:
        return sum(p.topic.endswith(suffix) for p in broker.published)

    with (
        ScriptedBroker(answer) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        FrameStore(tmp_path / "frames", 10 << 20) as frames,
        publishing(outbox, broker.port, frames) as publisher,
    ):
        for seq in range(1, 6):
            frames.put(rejected(seq), f"abc-{seq}", RECIPE)
        assert frames.flush(5)
        for _ in range(3):
            put_results(outbox, 10)
            wait_until(lambda: outbox.backlog() == 0)

        def offer() -> None:
            if name == "metrics":  # else they would always be in flight, and no frame is sent then
                publisher.offer_metrics(b"{}")

        def is_named() -> bool:
            offer()
            return named(broker) == {name}

        wait_until(is_named)
        assert broker.connections <= 4
        assert attempts() <= 3
        forbidden, before = False, attempts()
        put_results(outbox, 1)

        def is_sent_again() -> bool:
            offer()
            return attempts() > before

        wait_until(is_sent_again)
        wait_until(lambda: outbox.backlog() == 0)
        connections = broker.connections
        put_results(outbox, 20)
        wait_until(lambda: outbox.backlog() == 0)
        assert broker.connections == connections
        assert named(broker) == {name}


def test_a_forbidden_subscription_holds_up_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_topics, "FIRST_REST_S", 2.0)
    with (
        ScriptedBroker(lambda _: 0, drops_subscribers=True) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        put_results(outbox, 10)
        with publishing(outbox, broker.port, inlet=CommandInlet(lambda _: None)):
            wait_until(lambda: named(broker) == {"cmd/+"})
            wait_until(lambda: outbox.backlog() == 0)
            assert broker.connections <= 5


def test_a_broker_without_retained_messages_gets_results_and_a_status_that_is_not_retained(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, "retain_available false") as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        Subscriber(broker) as subscriber,
    ):
        put_results(outbox, 5)
        with publishing(outbox, broker.port):
            subscriber.wait_for(lambda m: sequence(m) == [1, 2, 3, 4, 5] and states(m) == ["running"])
            messages = subscriber.wait_for(lambda m: any(one.topic == f"{ROOT}/event" for one in m))
            wait_until(lambda: outbox.backlog() == 0)
    details = [json.loads(m.payload)["detail"] for m in messages if m.topic == f"{ROOT}/event"]
    assert details == ["status: published not retained, as the broker refuses it otherwise"]


def test_a_forbidden_will_holds_up_no_result(tmp_path: Path) -> None:
    with (
        ScriptedBroker(lambda _: 0, refuses_wills=True) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        put_results(outbox, 5)
        with publishing(outbox, broker.port):
            wait_until(lambda: outbox.backlog() == 0, 18)
            wait_until(lambda: named(broker) == {"status"})


def test_a_broker_that_is_down_for_a_while_gets_a_will_afterwards() -> None:
    fallback = WillFallback()
    for _ in range(20):
        assert fallback.will("t", b"") is not None
        fallback.refused(LinkError("Connection refused"))
    for _ in range(3):
        fallback.refused(LinkError("the broker closed the connection", cut_off=True))
    assert fallback.will("t", b"") is None
    assert not fallback.accepted(None)  # it may have come back just now: the will is tried again
    again = fallback.will("t", b"")
    assert again is not None
    assert fallback.accepted(again)
    assert fallback.will("t", b"") is not None


def rejected(seq: int) -> Inspection:
    """A rejected part with a small frame."""
    pixels = np.full((64, 80), seq, np.uint8)
    frame = Frame(f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0, pixels)
    trigger = Trigger(seq, frame.frame_id, None, seq, "2026-01-01T00:00:00Z", 0, (View(MAIN_VIEW, frame),))
    return Inspection(trigger, Decision(Verdict.REJECT, ()), (), Timings(), "2026-01-01T00:00:00Z")
