"""A publisher for a test, results to send, and readers of what a subscriber received."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.contract.topics import DeviceSettings
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.messages import Trigger
from edge.mqtt.inlet import CommandInlet
from edge.mqtt.publisher import Publisher
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from tests.support.broker import HOST, Received

DEVICE = DeviceSettings(enterprise="works", line="line-1", device="edge-1")
ROOT = "works/line-1/edge-1/v1"


@contextmanager
def publishing(
    outbox: Outbox,
    port: int,
    frames: FrameStore | None = None,
    inlet: CommandInlet | None = None,
    active_faults: Callable[[], tuple[FaultId, ...]] = tuple,
    **settings: object,
) -> Iterator[Publisher]:
    """A started publisher, and a started inlet, both stopped at the end."""
    mqtt = MqttSettings.model_validate({"host": HOST, "port": port, **settings})
    publisher = Publisher(outbox, frames, mqtt, DEVICE, inlet, active_faults)
    if inlet is not None:
        inlet.start()
    publisher.start()
    try:
        yield publisher
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge.mqtt.publisher.COMMIT_S", 1.0)
            patch.setattr("edge.mqtt.publisher.SEND_S", 1.0)
            publisher.stop()
        if inlet is not None:
            inlet.stop()


def put_results(outbox: Outbox, count: int) -> None:
    """Add `count` results to the outbox."""
    first = outbox.next_seq()
    for seq in range(first, first + count):
        outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
        outbox.close_trigger(seq, json.dumps({"seq": seq}).encode())
    assert outbox.flush(40)


def sequence(messages: list[Received]) -> list[int]:
    """Sequence numbers of the results in order of their first arrival."""
    numbers = [json.loads(m.payload)["seq"] for m in messages if m.topic == f"{ROOT}/result"]
    return list(dict.fromkeys(numbers))


def states(messages: list[Received]) -> list[str]:
    """The published states of the device, in order."""
    return [json.loads(m.payload)["state"] for m in messages if m.topic == f"{ROOT}/status"]


def wait_until(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    """Return once the condition holds; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def quarantined(path: Path) -> list[tuple[int | None, str]]:
    """Sequence number and reason of the quarantined messages."""
    with sqlite3.connect(path) as db:
        return db.execute("SELECT seq, reason FROM messages WHERE state = 'quarantined'").fetchall()
