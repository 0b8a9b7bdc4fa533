"""The demonstration's subscriber: no message is lost, whatever arrives between."""

from __future__ import annotations

import json
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from tests.contract.examples import example
from tests.support.broker import Broker
from tools.demo.broker import Subscriber


def publish(broker: Broker, *payloads: bytes) -> None:
    """Publish in place of a device."""
    device = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    device.connect(broker.host, broker.port)
    device.loop_start()
    for payload in payloads:
        device.publish("a/v1/result", payload, qos=1).wait_for_publish(10)
    device.disconnect()
    device.loop_stop()


def wait_for(subscriber: Subscriber, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(subscriber.results()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_empty_message_is_ignored_and_a_malformed_one_fails_every_time(broker: Broker) -> None:
    subscriber = Subscriber(broker.port, "a/v1/result")
    result = json.dumps(example("result.pass")).encode()
    try:
        publish(broker, result, b"", result)
        wait_for(subscriber, 2)
        publish(broker, b"nonsense", result)
        with pytest.raises(ValidationError):
            wait_for(subscriber, 3)
        with pytest.raises(ValidationError):
            subscriber.results()
    finally:
        subscriber.close()
