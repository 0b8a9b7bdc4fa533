"""Sends a backlog and then a steady stream through outbox, publisher and mosquitto: checks order, rate and memory.

python -m tools.drills.backlog                              # 1,000,000 results, then 500 per second for 10 minutes
python -m tools.drills.backlog --rows 50000 --seconds 20
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.cli.program import run_program
from edge.contract.topics import DeviceSettings
from edge.messages import Trigger
from edge.mqtt.publisher import Publisher
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now
from edge.terminal import echo
from tests.support.broker import Broker, running_broker

PAYLOAD_BYTES = 1024
GROWTH_ALLOWED_MB = 24.0
DEVICE = DeviceSettings(device="drill")


class Receiver:
    """A subscriber that only counts results."""

    def __init__(self, broker: Broker) -> None:
        self.distinct = self.repeated = self.out_of_order = 0
        self.last_seq = 0
        self.longest_s = 0.0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="receiver", clean_session=False)
        self._client.on_message = self._on_message
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("drill/v1/result", qos=1)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        result = json.loads(message.payload)
        seq = result["seq"]
        if seq <= self.last_seq:
            self.repeated += 1
            return
        self.out_of_order += seq != self.last_seq + 1
        self.distinct += 1
        self.last_seq = seq
        self.longest_s = max(self.longest_s, time.time() - result["at"])


def hand_in(outbox: Outbox, seq: int) -> None:
    """Store one trigger and its result of about 1 KB."""
    payload = json.dumps({"seq": seq, "at": time.time(), "padding": "x" * (PAYLOAD_BYTES - 64)}).encode()
    outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, utc_now(), 0))
    outbox.close_trigger(seq, payload)


def rss_mb() -> float:
    """Current resident memory of this process in MB."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; returns whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def store(outbox: Outbox, rows: int) -> None:
    """Store a backlog as fast as the disk allows."""
    started_s = time.monotonic()
    for seq in range(1, rows + 1):
        hand_in(outbox, seq)
        if seq % 5000 == 0 and not outbox.flush(60):
            raise click.ClickException(f"the outbox does not write: {outbox.error}")
    outbox.flush(60)
    seconds = time.monotonic() - started_s
    calls_s = time.monotonic()
    for _ in range(1000):
        outbox.backlog()
    backlog_us = (time.monotonic() - calls_s) * 1000
    echo(f"stored: {rows} results at {rows / seconds:.0f} per second; backlog() takes {backlog_us:.1f} us")


def drain(outbox: Outbox, receiver: Receiver, rows: int) -> bool:
    """Wait until the backlog is sent; returns whether it arrived in order and memory did not grow."""
    started_s = time.monotonic()
    drained = wait_until(lambda: receiver.distinct >= rows // 10, 120)
    early_mb = rss_mb()
    drained = drained and wait_until(lambda: receiver.distinct >= rows and outbox.backlog() == 0, rows / 500 + 60)
    seconds, grown_mb = time.monotonic() - started_s, rss_mb() - early_mb
    echo(f"drained: {receiver.distinct} of {rows} at {receiver.distinct / seconds:.0f} per second")
    echo(f"drained: {receiver.out_of_order} out of order, {receiver.repeated} repeated")
    echo(f"drained: memory {early_mb:.0f} MB after a tenth, {grown_mb:+.1f} MB after that")
    return drained and not receiver.out_of_order and grown_mb < GROWTH_ALLOWED_MB


def stream(outbox: Outbox, receiver: Receiver, rate: int, seconds: int) -> bool:
    """Store results at a steady rate; returns whether all arrived in order without growing backlog or memory."""
    first = outbox.next_seq()
    count, started_s, most_waiting = rate * seconds, time.monotonic(), 0
    early_mb = receiver.longest_s = 0.0
    for number in range(count):
        hand_in(outbox, first + number)
        if number == count // 10:
            early_mb = rss_mb()
        if number % 100 == 0:
            most_waiting = max(most_waiting, outbox.backlog())
            time.sleep(max(0.0, started_s + number / rate - time.monotonic()))
    late_s = time.monotonic() - started_s - seconds
    arrived = wait_until(lambda: receiver.last_seq >= first + count - 1, 30)
    grown_mb = rss_mb() - early_mb
    echo(
        f"stream: {rate} per second for {seconds} s, {late_s:+.1f} s late; longest delivery {receiver.longest_s:.2f} s"
    )
    echo(f"stream: backlog at most {most_waiting}, {receiver.out_of_order} out of order, all arrived: {arrived}")
    echo(f"stream: memory {early_mb:.0f} MB after a tenth, {grown_mb:+.1f} MB after that")
    return (
        arrived
        and late_s < 1
        and most_waiting < 5 * rate
        and not receiver.out_of_order
        and grown_mb < GROWTH_ALLOWED_MB
    )


@click.command()
@click.option("--rows", default=1_000_000, help="Results in the backlog.")
@click.option("--rate", default=500, help="Results per second of the stream.")
@click.option("--seconds", default=600, help="Duration of the stream.")
def drill(rows: int, rate: int, seconds: int) -> None:
    """Send a backlog, then a stream; exit with 1 on loss, wrong order or growth."""
    folder = Path(tempfile.mkdtemp(prefix="drill-backlog-"))
    try:
        with Outbox(folder / "outbox.db") as outbox, running_broker(folder) as broker:
            store(outbox, rows)
            receiver = Receiver(broker)
            publisher = Publisher(outbox, None, MqttSettings(host=broker.host, port=broker.port), DEVICE)
            publisher.start()
            drained = drain(outbox, receiver, rows)
            streamed = stream(outbox, receiver, rate, seconds)
            publisher.stop()
            receiver.close()
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if drained and streamed else 1)


if __name__ == "__main__":
    run_program(drill, "backlog")
