"""Counts the results that a receiver got during a drill: missing, out of order, repeated."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from edge.contract.topics import DeviceSettings
from edge.frames.store import FrameStore
from edge.messages import Trigger
from edge.mqtt.publisher import Publisher
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from tests.support.broker import Received

DEVICE = DeviceSettings(enterprise="drill", device="edge-1")
ROOT = "drill/edge-1/v1"
MOST_DUPLICATES = 0.01


@dataclass(frozen=True)
class Figure:
    """One line of a drill's outcome."""

    drill: str
    text: str
    passed: bool


@dataclass
class Count:
    """Received results, counted by their number; `replayed` is how many had to be requested again."""

    stored: int
    received: int = 0
    missing: list[int] = field(default_factory=list)
    out_of_order: int = 0
    replayed: int = 0

    @property
    def duplicates(self) -> int:
        """How many results were received more than once."""
        return self.received - (self.stored - len(self.missing))

    def figure(self, drill: str, text: str, condition: bool = True, most_duplicates: float | None = None) -> Figure:
        """The drill's result; `condition` is an additional condition, `most_duplicates` replaces the limit of 1 %."""
        most = MOST_DUPLICATES * self.stored if most_duplicates is None else most_duplicates
        fine = not self.missing and not self.out_of_order and self.duplicates <= most
        summary = (
            f"{self.stored} results, {len(self.missing)} missing, {self.out_of_order} out of order, "
            f"{self.duplicates} repeated ({self.duplicates / max(self.stored, 1):.2%}), "
            f"{self.replayed} replayed after a loss at broker or receiver; {text}"
        )
        return Figure(drill, summary, fine and condition)


def numbers_of(messages: list[Received]) -> list[int]:
    """Numbers of the results in order of arrival, repetitions included."""
    return [json.loads(m.payload)["seq"] for m in messages if m.topic.endswith("/v1/result")]


def count_of(numbers: list[int], stored: int) -> Count:
    """Count the received numbers against `stored` results."""
    first = list(dict.fromkeys(numbers))
    out_of_order = sum(later < earlier for earlier, later in pairwise(first))
    missing = sorted(set(range(1, stored + 1)) - set(first))
    return Count(stored, len(numbers), missing, out_of_order)


def request_missing(outbox: Outbox, missing: list[int]) -> None:
    """Request the missing results gap by gap, as a receiver would."""
    gaps: list[list[int]] = []
    for seq in missing:
        if gaps and gaps[-1][1] == seq - 1:
            gaps[-1][1] = seq
        else:
            gaps.append([seq, seq])
    for first, last in gaps:
        outbox.replays.ask(outbox.epoch, first, last)
    outbox.flush(10)
    outbox.wakeup.set()


def store(outbox: Outbox, seq: int) -> None:
    """Store one result of typical size, with its creation time."""
    outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
    body = {"seq": seq, "backfill": False, "at": time.monotonic(), "fill": "x" * 1000}
    outbox.close_trigger(seq, json.dumps(body, separators=(",", ":")).encode())


BackgroundT = TypeVar("BackgroundT", bound="Background")


class Background(ABC):
    """Runs `_run` in a thread during the block, until `_stopping` is set."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self: BackgroundT) -> BackgroundT:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None: ...


class Steady(Background):
    """Stores results at a steady rate in a thread; `stored` is the number so far."""

    def __init__(self, outbox: Outbox, per_s: float) -> None:
        super().__init__()
        self.stored = 0
        self._outbox = outbox
        self._interval_s = 1 / per_s

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set():
            self.stored += 1
            store(self._outbox, self.stored)
            due_s += self._interval_s
            self._stopping.wait(max(0.0, due_s - time.monotonic()))


@contextmanager
def publishing(outbox: Outbox, host: str, port: int, frames: FrameStore | None = None) -> Iterator[Publisher]:
    """A publisher that runs during the block."""
    publisher = Publisher(outbox, frames, MqttSettings(host=host, port=port), DEVICE)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


def wait_until_sent(outbox: Outbox, timeout_s: float) -> bool:
    """Wait until the outbox is empty; False after the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if outbox.flush(5) and not outbox.backlog() and not outbox.replays.page(None, 1):
            return True
        time.sleep(0.1)
    return False


def outbox_in(folder: Path) -> Outbox:
    """A new outbox."""
    return Outbox(folder / "outbox.db")
