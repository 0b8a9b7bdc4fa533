"""SIGKILL of the daemon, of the broker and of both; and an hour without a broker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from tests.support.broker import Broker, Subscriber, running_broker
from tests.support.device import PATIENT, Device, new_device
from tools.drills.mqtt.count import (
    Count,
    Figure,
    Steady,
    count_of,
    numbers_of,
    outbox_in,
    publishing,
    request_missing,
    store,
    wait_until_sent,
)

PARTS_PER_MIN = 1200
RESULTS_PER_S = 200
_SETTLE_S = 20.0


def daemon_kills(folder: Path, short: bool) -> Figure:
    """Kill the daemon at random moments while it inspects; the last run completes."""
    kills = 3 if short else 100
    with running_broker(folder) as broker:
        count = _kill_daemon_repeatedly(folder, broker, kills, lambda _: None)
    return count.figure("daemon_kills", f"{kills} SIGKILLs of the daemon")


def both_kills(folder: Path, short: bool) -> Figure:
    """Kill the broker and then the daemon, again and again."""
    kills = 3 if short else 50

    def kill_broker(broker: Broker) -> None:
        broker.kill()
        broker.start()

    with running_broker(folder) as broker:
        count = _kill_daemon_repeatedly(folder, broker, kills, kill_broker)
    return count.figure("both_kills", f"{kills} SIGKILLs each of daemon and broker")


def _kill_daemon_repeatedly(folder: Path, broker: Broker, kills: int, meanwhile: Callable[[Broker], None]) -> Count:
    parts = 30 * (kills + 1)
    device = new_device(folder / "device", broker.port, parts)
    device.camera["parts_per_min"] = PARTS_PER_MIN
    device.sections["inspection"] = PATIENT
    device.write_settings()
    draw = random.Random(4)  # noqa: S311  (moments to kill at, the same in every run)
    with Subscriber(broker) as subscriber:
        for _ in range(kills):
            said = len(device.log_text)
            process = device.start()
            try:
                while "inspecting; results go" not in device.log_text[said:]:
                    time.sleep(0.02)
                time.sleep(draw.uniform(0.1, 1.2))
                meanwhile(broker)
                time.sleep(draw.uniform(0.0, 0.3))
            finally:
                process.kill()
                process.wait()
        device.camera["parts_per_min"] = "max"
        device.write_settings()
        device.run(timeout_s=120)
        return _settled(device, broker, subscriber)


def _settled(device: Device, broker: Broker, subscriber: Subscriber) -> Count:
    """Count the results at the end, and again after the missing ones were requested."""
    with Outbox(device.folder / "state" / OUTBOX_FILE) as outbox, publishing(outbox, broker.host, broker.port):
        wait_until_sent(outbox, _SETTLE_S)
        return _count_with_gaps_filled(outbox, subscriber, outbox.next_seq() - 1)


def _count_with_gaps_filled(outbox: Outbox, subscriber: Subscriber, stored: int) -> Count:
    _wait_quiet(subscriber)
    first = count_of(numbers_of(subscriber.messages), stored)
    if not first.missing:
        return first
    request_missing(outbox, first.missing)
    wait_until_sent(outbox, _SETTLE_S)
    _wait_quiet(subscriber)
    last = count_of(numbers_of(subscriber.messages), stored)
    replayed = len(first.missing) - len(last.missing)
    return Count(stored, last.received, last.missing, first.out_of_order, replayed)


def _wait_quiet(subscriber: Subscriber) -> None:
    count = -1
    while len(subscriber.messages) != count:
        count = len(subscriber.messages)
        time.sleep(1.0)


def broker_kills(folder: Path, short: bool) -> Figure:
    """Kill the broker while results are sent at a steady rate; it loses what it had not written to disk."""
    kills = 3 if short else 50
    draw = random.Random(5)  # noqa: S311  (moments to kill at, the same in every run)
    with (
        running_broker(folder) as broker,
        Subscriber(broker) as subscriber,
        outbox_in(folder) as outbox,
        publishing(outbox, broker.host, broker.port),
    ):
        with Steady(outbox, RESULTS_PER_S) as steady:
            for _ in range(kills):
                time.sleep(draw.uniform(1.0, 3.0))
                broker.kill()
                time.sleep(draw.uniform(0.0, 1.0))
                broker.start()
            time.sleep(2.0)
        wait_until_sent(outbox, 60)
        count = _count_with_gaps_filled(outbox, subscriber, steady.stored)
    return count.figure("broker_kills", f"{kills} SIGKILLs of the broker at {RESULTS_PER_S} results/s")


def outage(folder: Path, short: bool) -> Figure:
    """Store the results of an hour without a broker, then start the broker and send them."""
    waiting = 2000 if short else 36_000
    broker = Broker(folder)
    with outbox_in(folder) as outbox, publishing(outbox, broker.host, broker.port):
        for seq in range(1, waiting + 1):
            store(outbox, seq)
        outbox.flush(60)
        broker.start()
        try:
            with Subscriber(broker) as subscriber:
                started_s = time.monotonic()
                sent = wait_until_sent(outbox, 300)
                took_s = time.monotonic() - started_s
                _wait_quiet(subscriber)
                count = count_of(numbers_of(subscriber.messages), waiting)
        finally:
            broker.kill()
    return count.figure("outage", f"sent in {took_s:.1f} s ({waiting / took_s:.0f}/s)", sent)
