"""A sample receiver for an MES: handles every result once, reports gaps, acknowledges a result only after handling it.

It needs only paho-mqtt 2 and nothing of this project: copy the file.

    python mes_subscriber.py --host broker.plant.example --port 8883 --ca plant-ca.pem --root acme/graz/line-1/edge-1/v1

Each new result is printed as one line of JSON on stdout; messages for people go to stderr. With `--ids FILE` the
numbers of handled results are kept over a restart of this program.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SESSION_S = 7 * 24 * 3600
"""How long the broker keeps results for this receiver while it is not connected, in seconds."""


class Numbers:
    """The handled numbers of one (device, epoch), as sorted ranges [first, last] with gaps between them."""

    def __init__(self, ranges: list[list[int]] | None = None) -> None:
        self.ranges = ranges or []

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

    def _join(self, index: int) -> None:
        if index + 1 < len(self.ranges) and self.ranges[index][1] + 1 >= self.ranges[index + 1][0]:
            self.ranges[index][1] = self.ranges.pop(index + 1)[1]


class Receiver:
    """Handles results, drops repetitions by (device, epoch, seq) and reports gaps."""

    def __init__(self, ids: Path | None) -> None:
        self._ids = ids
        self.handled: dict[str, Numbers] = {}
        if ids is not None and ids.exists():
            self.handled = {key: Numbers(ranges) for key, ranges in json.loads(ids.read_text()).items()}

    def take(self, payload: bytes) -> None:
        """Handle one result."""
        try:
            result = json.loads(payload)
            key, seq = f"{result['device']} {result['epoch']}", int(result["seq"])
        except (ValueError, TypeError, KeyError) as error:
            print_message(f"malformed result ({error}): {payload[:200]!r}")
            return
        numbers = self.handled.setdefault(key, Numbers())
        gaps = len(numbers.gaps())
        if not numbers.add(seq):
            return
        print(json.dumps(result), flush=True)  # put your own handling here; only then remember the number
        if len(numbers.gaps()) > gaps:
            print_message(f"{key}: missing before {seq}: {numbers.gaps()[-1]}")
        if self._ids is not None:
            partial = self._ids.with_name(self._ids.name + ".partial")
            partial.write_text(json.dumps({name: known.ranges for name, known in self.handled.items()}))
            partial.rename(self._ids)

    def report(self) -> None:
        """Print how many results were handled and which are missing."""
        for key, numbers in self.handled.items():
            count = sum(last - first + 1 for first, last in numbers.ranges)
            missing = ", ".join(f"{first} to {last}" for first, last in numbers.gaps()) or "nothing"
            print_message(f"{key}: {count} results; missing: {missing}")


def client_from_arguments(arguments: argparse.Namespace, receiver: Receiver) -> mqtt.Client:
    """An MQTT client with a persistent session, which acknowledges a result after handling it."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=arguments.client_id, protocol=mqtt.MQTTv5, manual_ack=True
    )
    if arguments.username:
        client.username_pw_set(arguments.username, os.environ.get("MQTT_PASSWORD"))
    if arguments.ca:
        context = ssl.create_default_context(cafile=arguments.ca)
        if arguments.cert:
            context.load_cert_chain(arguments.cert, arguments.key)
        client.tls_set_context(context)

    def on_connect(client: mqtt.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            print_message(f"the broker refused the connection: {reason}")
        else:
            client.subscribe([(f"{arguments.root}/result", 1), (f"{arguments.root}/status", 1)])

    def on_subscribe(_client: mqtt.Client, _data: object, _mid: int, reasons: list[Any], _properties: object) -> None:
        refused = any(reason.is_failure for reason in reasons)
        print_message("the broker refused the subscription" if refused else f"receiving {arguments.root}")

    def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("/result"):
            receiver.take(bytes(message.payload))
        else:
            print_message(f"{message.topic}: {message.payload[:200]!r}")
        client.ack(message.mid, message.qos)

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.on_disconnect = lambda _client, _data, _flags, reason, _properties: print_message(f"disconnected: {reason}")
    return client


def print_message(text: str) -> None:
    """Print a message for people on stderr."""
    print(text, file=sys.stderr, flush=True)


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
    client = client_from_arguments(arguments, receiver)
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.SessionExpiryInterval = SESSION_S
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    client.connect_async(arguments.host, arguments.port, clean_start=False, properties=properties)
    client.loop_start()
    done.wait()
    client.disconnect()
    client.loop_stop()
    receiver.report()


if __name__ == "__main__":
    main()
