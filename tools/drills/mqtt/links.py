"""Links that break, lose packets or are slow, in a separate test network."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np

from edge.frames.store import FrameStore
from edge.messages import MAIN_VIEW, Decision, Frame, Inspection, Timings, Trigger, Verdict, View
from edge.mqtt.delivery import WINDOW
from edge.mqtt.publisher import Publisher
from edge.policy import Policy
from tests.support.broker import Subscriber
from tests.support.recipes import recipe_of
from tools.drills.mqtt.count import (
    MOST_DUPLICATES,
    Background,
    Figure,
    Steady,
    count_of,
    numbers_of,
    outbox_in,
    publishing,
    wait_until_sent,
)
from tools.drills.mqtt.lab import BROKER, PORT, Lab

RESULTS_PER_S = 50
FOUND_WITHIN_S = 15.0
RESULT_WITHIN_S = 1.0
_FRAMES_PER_S = 15


class Latencies(Background):
    """Records for each result the time from storing it to its first arrival."""

    def __init__(self, subscriber: Subscriber) -> None:
        super().__init__()
        self.seconds: dict[int, float] = {}
        self._subscriber = subscriber

    def _run(self) -> None:
        seen = 0
        while not self._stopping.wait(0.005):
            messages, now_s = self._subscriber.messages, time.monotonic()
            for message in messages[seen:]:
                if message.topic.endswith("/v1/result"):
                    body = json.loads(message.payload)
                    self.seconds.setdefault(body["seq"], now_s - body["at"])
            seen = len(messages)

    def share(self, share: float) -> float:
        """Seconds after which this share of the results had arrived."""
        return float(np.quantile(list(self.seconds.values()), share))


def partitions(folder: Path, short: bool) -> list[Figure]:
    """Each kind of partition while results are sent, long enough to be detected."""
    figures, faults = [], 0
    with Lab(folder) as lab, lab.subscriber() as subscriber, outbox_in(folder) as outbox:
        with publishing(outbox, BROKER, PORT) as publisher, Steady(outbox, RESULTS_PER_S) as steady:
            time.sleep(1.0)
            for fault in (lab.drop, lab.black_hole, lab.unplug, lab.reset):
                for _ in range(1 if short else 5):
                    fault()
                    found_s = _until(publisher, connected=False)
                    time.sleep(1.0)
                    lab.heal()
                    back_s = _until(publisher, connected=True)
                    faults += 1
                    time.sleep(1 if short else 40)
                text = f"{fault.__name__}: detected after {found_s:.1f} s, reconnected {back_s:.1f} s after it ended"
                figures.append(Figure("partitions", text, found_s <= FOUND_WITHIN_S and back_s < 20))
        wait_until_sent(outbox, 60)
        time.sleep(1.0)
        count = count_of(numbers_of(subscriber.messages), steady.stored)
    most = WINDOW * faults if short else MOST_DUPLICATES * count.stored
    return [*figures, count.figure("partitions", f"{faults} of all kinds together", most_duplicates=most)]


def loss(folder: Path, short: bool) -> Figure:
    """Lose 5 % of the packets in each direction."""
    with Lab(folder) as lab, lab.subscriber() as subscriber, outbox_in(folder) as outbox:
        lab.lose(5)
        with Latencies(subscriber) as latencies, publishing(outbox, BROKER, PORT):
            with Steady(outbox, RESULTS_PER_S) as steady:
                time.sleep(8 if short else 300)
            wait_until_sent(outbox, 60)
            time.sleep(1.0)
        count = count_of(numbers_of(subscriber.messages), steady.stored)
    return count.figure(
        "loss", f"5 % loss, latency p50 {latencies.share(0.5):.3f} s, p99 {latencies.share(0.99):.2f} s"
    )


def slow_link(folder: Path, short: bool) -> Figure:
    """1 Mbit/s while large frames are queued: results must not wait for them."""
    noise = np.random.default_rng(1).integers(0, 256, (1200, 1600), np.uint8)
    pixels = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)  # a JPEG as large as of a textured part
    with (
        Lab(folder) as lab,
        lab.subscriber() as subscriber,
        outbox_in(folder) as outbox,
        FrameStore(folder / "frames", 1 << 30) as frames,
    ):
        recipe = recipe_of(Policy((), None))
        lab.slow("1mbit")
        frames.put(_rejected(1, pixels), "abc-1", recipe)
        with Latencies(subscriber) as latencies, publishing(outbox, BROKER, PORT, frames) as publisher:
            with Steady(outbox, 5) as steady:
                for seq in range(2, 2 + (10 if short else 120) * _FRAMES_PER_S):
                    frames.put(_rejected(seq, pixels), f"abc-{seq}", recipe)
                    time.sleep(1 / _FRAMES_PER_S)
                queued = frames.next_unsent() is not None
            wait_until_sent(outbox, 60)
            time.sleep(1.0)
            sent = publisher.link.frames_sent
        count = count_of(numbers_of(subscriber.messages), steady.stored)
    worst_s = latencies.share(1.0)
    text = f"1 Mbit/s, {sent} frames sent: latency p99 {latencies.share(0.99):.2f} s, worst {worst_s:.2f} s"
    return count.figure("slow_link", text, worst_s <= RESULT_WITHIN_S and sent > 0 and queued)


def _until(publisher: Publisher, *, connected: bool) -> float:
    started_s = time.monotonic()
    while publisher.link.connected is not connected and time.monotonic() - started_s < 60:
        time.sleep(0.02)
    return time.monotonic() - started_s


def _rejected(seq: int, pixels: np.ndarray) -> Inspection:
    frame = Frame(f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0, pixels)
    trigger = Trigger(seq, frame.frame_id, None, seq, "2026-01-01T00:00:00Z", 0, (View(MAIN_VIEW, frame),))
    return Inspection(trigger, Decision(Verdict.REJECT, ()), (), Timings(), "2026-01-01T00:00:00Z")
