"""A sample receiver for an MES: no result is lost, repetitions are dropped, gaps are reported.

It needs only paho-mqtt 2 and nothing of this project: copy the file, and put your own handling into `handle`.

    python mes_subscriber.py --host broker.plant.example --port 8883 --ca plant-ca.pem --root acme/graz/line-1/edge-1/v1

A result is handled, then its number is remembered, then it is acknowledged to the broker. While handling or remembering
fails it is tried again, and the results behind it wait at the broker in their order. So `handle` may get a result
a second time if this program dies in between: store under (device, epoch, seq).

Each new result is printed as one line of JSON on stdout; messages for people go to stderr. With `--ids FILE` the
numbers of handled results are kept over a restart of this program.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SESSION_S = 7 * 24 * 3600
"""How long the broker keeps results for this receiver while it is not connected, in seconds."""
IN_FLIGHT = 20
"""How many results the broker sends ahead of their acknowledgement."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""The pause before a failed result is tried again doubles from the first to the longest."""


def handle(result: dict[str, Any]) -> None:
    """Put your own handling here. Return when the result is stored for good; raise if not, and it is tried again."""
    line = json.dumps(result).encode() + b"\n"
    if os.write(sys.stdout.fileno(), line) < len(line):
        raise OSError("the line was written in part")


class Numbers:
    """The handled numbers of one (device, epoch), as sorted ranges [first, last] with gaps between them."""

    def __init__(self, ranges: list[list[int]] | None = None) -> None:
        self.ranges = ranges or []

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.ranges)

    def add(self, number: int) -> bool:
        """Add a number; returns False if it is already known, so the message is a repetition."""
        for index, (first, last) in enumerate(self.ranges):
            if first <= number <= last:
                return False
            if number < first - 1:
                self.ranges.insert(index, [number, number])
                return True
            if number in (first - 1, last + 1):
                self.ranges[index] = [min(first, number), max(last, number)]
                self._join(index)
                return True
        self.ranges.append([number, number])
        return True

    def gaps(self) -> list[tuple[int, int]]:
        """The missing numbers between the lowest and the highest; request them with the command `replay`."""
        pairs = zip(self.ranges, self.ranges[1:])  # noqa: B905  (the second is one shorter)
        return [(before[1] + 1, after[0] - 1) for before, after in pairs]

    def before_first(self) -> tuple[int, int] | None:
        """The numbers below the lowest: missing, or of a time before this receiver; None if it has number 1."""
        return (1, self.ranges[0][0] - 1) if self.ranges and self.ranges[0][0] > 1 else None

    def _join(self, index: int) -> None:
        if index + 1 < len(self.ranges) and self.ranges[index][1] + 1 >= self.ranges[index + 1][0]:
            self.ranges[index][1] = self.ranges.pop(index + 1)[1]


class Receiver:
    """Handles results, drops repetitions by (device, epoch, seq) and reports gaps."""

    def __init__(self, ids: Path | None, handler: Callable[[dict[str, Any]], None] = handle) -> None:
        self._ids = ids
        self._handler = handler
        self._unsaved = False
        self.handled = {} if ids is None or not ids.exists() else numbers_from_file(ids)

    def take(self, payload: bytes) -> None:
        """Handle one result unless it was handled before, and remember it; call it again after an exception.

        Raises:
            Exception: what handling raised, or an OSError because the number cannot be stored.
        """
        if not payload:
            return  # a test of permissions by `procunit mqtt check`
        try:
            result = json.loads(payload)
            key, seq = f"{result['device']} {result['epoch']}", result["seq"]
            if type(seq) is not int or seq < 1:
                raise ValueError(f"seq is {seq!r}")  # noqa: TRY301  (reported like every malformed result)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            print_message(f"malformed result ({error!r}): {payload[:200]!r}")
            return
        numbers = self.handled.get(key, Numbers())
        if seq not in numbers:
            self._handler(result)
            self._unsaved = True
            self._report_gap(key, numbers, seq)
            self.handled[key] = numbers
        if self._unsaved and self._ids is not None:
            write_whole(self._ids, {name: known.ranges for name, known in self.handled.items()})
        self._unsaved = False

    def report(self) -> None:
        """Print how many results were handled and which are missing."""
        for key, numbers in self.handled.items():
            count = sum(last - first + 1 for first, last in numbers.ranges)
            missing = ", ".join(f"{first} to {last}" for first, last in numbers.gaps()) or "nothing"
            before = numbers.before_first()
            print_message(f"{key}: {count} results; missing: {missing}" + (possibly(before) if before else ""))

    @staticmethod
    def _report_gap(key: str, numbers: Numbers, seq: int) -> None:
        """Add the number, and print what it shows to be missing."""
        known, gaps = bool(numbers.ranges), len(numbers.gaps())
        numbers.add(seq)
        before = numbers.before_first()
        if before and not known:
            print_message(f"{key}: the first result is {seq}{possibly(before)}")
        elif len(numbers.gaps()) > gaps:
            print_message(f"{key}: missing before {seq}: {numbers.gaps()[-1]}")


def possibly(numbers: tuple[int, int]) -> str:
    """What the numbers below the first result may mean."""
    first, last = numbers
    return f"; {first} to {last} are missing, unless they came before this receiver: `replay` sends them again"


def numbers_from_file(path: Path) -> dict[str, Numbers]:
    """The numbers that an earlier run has stored."""
    try:
        stored = json.loads(path.read_text())
        return {key: Numbers([[int(first), int(last)] for first, last in ranges]) for key, ranges in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print_message(f"{path} cannot be used ({error}): move it away; results may then be handled a second time")
        raise SystemExit(2) from error


def write_whole(path: Path, content: object) -> None:
    """Replace a file so that it is old or new whatever happens, and on the disk when this returns."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Arrived(NamedTuple):
    """A result from the broker; `connection` counts connections, as its packet id belongs to one of them."""

    payload: bytes
    packet_id: int
    qos: int
    connection: int


class Link:
    """The connection to the broker, with a session that the broker keeps; results are put on `arrived`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._root = arguments.root
        self._connection = 0
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=arguments.client_id, protocol=mqtt.MQTTv5, manual_ack=True
        )
        if arguments.username:
            client.username_pw_set(arguments.username, os.environ.get("MQTT_PASSWORD"))
        if arguments.ca:
            context = ssl.create_default_context(cafile=arguments.ca)
            if arguments.cert:
                context.load_cert_chain(arguments.cert, arguments.key)
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = lambda _c, _d, _flags, reason, _properties: print_message(f"disconnected: {reason}")
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = IN_FLIGHT
        client.connect_async(arguments.host, arguments.port, clean_start=False, properties=properties)
        client.loop_start()

    def acknowledge(self, result: Arrived) -> None:
        """Acknowledge a result; one of an earlier connection is sent again anyway, and then known."""
        if result.connection == self._connection:
            self._client.ack(result.packet_id, result.qos)

    def close(self) -> None:
        """Disconnect; what is not acknowledged stays at the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self._connection += 1
        if reason.is_failure:
            print_message(f"the broker refused the connection: {reason}")
        else:
            client.subscribe([(f"{self._root}/result", 1), (f"{self._root}/status", 1)])

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, reasons: list[Any], _properties: object
    ) -> None:
        refused = any(reason.is_failure for reason in reasons)
        print_message("the broker refused the subscription" if refused else f"receiving {self._root}")

    def _on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.endswith("/result"):
            self.arrived.put(Arrived(payload, message.mid, message.qos, self._connection))
            return
        if payload:
            print_message(f"{message.topic}: {payload[:200]!r}")
        client.ack(message.mid, message.qos)


def receive(link: Link, receiver: Receiver, done: threading.Event) -> None:
    """Take results one after the other until `done` is set; one that fails is tried again before the next."""
    while not done.is_set():
        try:
            result = link.arrived.get(timeout=0.5)
        except queue.Empty:
            continue
        pause_s = FIRST_PAUSE_S
        while not done.is_set():
            try:
                receiver.take(result.payload)
            except Exception as error:  # noqa: BLE001  (your handling may raise anything; nothing is lost by it)
                print_message(f"failed, trying again in {pause_s:.0f} s: {error!r}: {result.payload[:200]!r}")
                done.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                link.acknowledge(result)
                break


def print_message(text: str) -> None:
    """Print a message for people on stderr, in one line whatever a sender has put into it."""
    print("".join(c if c.isprintable() else "?" for c in text), file=sys.stderr, flush=True)


def main() -> None:
    """Receive until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="host name of the broker")
    parser.add_argument("--port", type=int, default=1883, help="port of the broker (1883; with TLS usually 8883)")
    parser.add_argument("--root", required=True, help="root of the device's topics; + stands for any level")
    parser.add_argument("--client-id", default="mes-1", help="client id of this receiver, unique at the broker")
    parser.add_argument("--username", help="user name; the password is taken from the variable MQTT_PASSWORD")
    parser.add_argument("--ca", help="PEM file of the broker's certificate authority; turns TLS on")
    parser.add_argument("--cert", help="PEM file of this receiver's certificate")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    parser.add_argument("--ids", type=Path, help="file that stores which results were handled")
    arguments = parser.parse_args()
    receiver = Receiver(arguments.ids)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    link = Link(arguments)
    receive(link, receiver, done)
    link.close()
    receiver.report()


if __name__ == "__main__":
    main()
