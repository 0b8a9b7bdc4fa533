"""A device that was renamed: what it stored before is published below its new topics, and points to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.contract.results import payload_below
from tests.contract.examples import example
from tests.support.broker import Broker, Received, Subscriber, free_port, running_broker
from tests.support.device import Device, new_device, stop

PARTS = 10
NEW_ROOT = "acme/graz/edge-9/v1"


def results_at(messages: list[Received], topic: str) -> list[dict[str, Any]]:
    """The results on a topic."""
    return [json.loads(m.payload) for m in messages if m.topic == topic]


def renamed(device: Device, port: int) -> None:
    """Give the device another name and place in the plant, and a broker."""
    device.port = port
    device.sections = {"device": {"enterprise": "acme", "site": "graz", "device": "edge-9"}}
    device.camera = {"at_end": "hold"}
    device.write_settings()


@pytest.mark.slow
def test_results_stored_before_point_to_topics_where_their_images_come(tmp_path: Path) -> None:
    device = new_device(tmp_path / "device", free_port(), PARTS)
    device.camera = {"at_end": "stop"}
    device.write_settings()
    assert device.run() == 0, device.log_text  # without a broker: everything waits in the outbox
    with running_broker(tmp_path) as broker, Subscriber(broker) as subscriber:
        renamed(device, broker.port)
        daemon = device.start()
        try:
            topic = f"{NEW_ROOT}/result"
            messages = subscriber.wait_for(lambda m: len(results_at(m, topic)) >= PARTS)
            announced = topics_of(results_at(messages, topic))
            assert len(announced) >= 4  # a photograph and a heatmap of each flagged part
            subscriber.wait_for(lambda m: announced <= {message.topic for message in m})
            ask_for_all_again(broker, results_at(messages, topic)[0])
            subscriber.wait_for(lambda m: len(results_at(m, topic)) >= 2 * PARTS)
            messages = subscriber.wait_for(lambda m: bool(results_at(m, f"{NEW_ROOT}/result/last")))
        finally:
            assert stop(daemon) == 0
    assert {message.topic.partition("/v1/")[0] for message in messages} == {"acme/graz/edge-9"}
    for message in messages:
        if message.topic.partition("/v1/")[2] in ("result", "result/last"):
            assert b"demo/edge-1" not in message.payload
    assert {result["device"] for result in results_at(messages, topic)} == {"edge-1"}


def topics_of(results: list[dict[str, Any]]) -> set[str]:
    """The topics that results name for their photographs and heatmaps."""
    images = [result["image"] for result in results if result["image"] is not None]
    return {str(image[key]) for image in images for key in ("topic", "heatmapTopic")}


def ask_for_all_again(broker: Broker, result: dict[str, Any]) -> None:
    """Send the command `replay` for every result."""
    command = {"cmdId": "again", "args": {"epoch": result["epoch"], "from": 1, "to": PARTS}}
    with Subscriber(broker) as sender:
        sender._client.publish(f"{NEW_ROOT}/cmd/replay", json.dumps(command), qos=1).wait_for_publish(5)


@pytest.mark.parametrize("name", ["result.review", "result.two-views"])
def test_no_other_byte_of_a_stored_result_changes(name: str) -> None:
    result: Any = example(name)
    old = result["image"]["topic"].partition("/frame/")[0]
    payload = json.dumps(result, separators=(",", ":")).encode()
    assert b'"image":{' in payload
    assert payload_below(payload, old) == payload
    assert payload_below(payload, "x/v1") == payload.replace(f"{old}/frame/".encode(), b"x/v1/frame/")
    assert payload_below(payload_below(payload, "x/v1"), old) == payload
    del result["images"]  # as earlier versions stored it
    payload = json.dumps(result, separators=(",", ":")).encode()
    assert payload_below(payload, "x/v1") == payload.replace(f"{old}/frame/".encode(), b"x/v1/frame/")
    for untouched in (b'{"seq":5}', json.dumps({**result, "image": None}, separators=(",", ":")).encode()):
        assert payload_below(untouched, "x/v1") == untouched


def test_a_type_with_the_name_of_a_key_is_left_alone() -> None:
    result = example("result.review")
    result["authority"] = {"topic": "reject", "image": "review"}
    result["scoresByView"] = {"image": result["scores"]}
    moved = json.loads(payload_below(json.dumps(result, separators=(",", ":")).encode(), "x/v1"))
    assert moved["authority"] == result["authority"]
    assert moved["image"]["topic"].startswith("x/v1/frame/")
    without: Any = {**result, "image": None, "images": []}
    payload = json.dumps(without, separators=(",", ":")).encode()
    assert payload_below(payload, "x/v1") == payload
