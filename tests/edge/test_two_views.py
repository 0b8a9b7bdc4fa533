"""A part photographed from two sides, from the camera to the broker: two images on two topics, and one verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from edge.bundle.keys import trusted_key_from_file
from edge.bundle.reader import open_bundle
from edge.contract.payloads import bytes_from_payload
from edge.contract.results import ResultContext, result_from_inspection
from edge.engine.ort import OrtEngine
from edge.frames.store import FrameStore
from edge.geometry import Region
from edge.messages import MAIN_VIEW, Frame, PixelArray, Trigger, View
from edge.outbox.outbox import Outbox
from edge.pipeline import inspect_part
from edge.policy import policy_from_manifest
from edge.recipe import recipe_from_bundle
from tests.support.broker import Subscriber, running_broker
from tests.support.publishing import ROOT, publishing
from tests.support.tiny_bundle import TINY_GEOMETRY, build_tiny_bundle, defect_image, good_image

LEFT = TINY_GEOMETRY.model_copy(update={"regions": (Region(width=0.5),)})
"""The view `left` looks at the left half of its frame."""


class TwoCameras:
    """Test double: two cameras at one station, each with its frame of every part; `frames` are (main, left)."""

    def __init__(self, *frames: tuple[PixelArray, PixelArray]) -> None:
        self._frames = frames

    def triggers(self) -> Iterator[Trigger]:
        """Every part with both of its frames."""
        for seq, pixels in enumerate(self._frames, start=1):
            now_ns = time.monotonic_ns()
            views = tuple(
                View(name, Frame(f"{name}-{seq}", f"P{seq}", seq, "2026-01-01T00:00:00.000Z", now_ns, image))
                for name, image in zip((MAIN_VIEW, "left"), pixels, strict=True)
            )
            yield Trigger(seq, str(seq), f"P{seq}", seq, "2026-01-01T00:00:00.000Z", now_ns, views)


def left(pixels: PixelArray) -> PixelArray:
    """A frame of the left camera; what lies in its right half is not inspected."""
    return np.hstack([pixels, defect_image(9)]).astype(np.uint8)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """What a subscriber receives of three parts: a good one, one with a defect on the left, one good whole."""
    folder = tmp_path_factory.mktemp("two-views")
    tiny = build_tiny_bundle(folder, rejecting=("scratch",))
    bundle = open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))
    geometries = {**bundle.manifest.geometries, "left": LEFT}
    policy = policy_from_manifest(bundle.manifest, demo_key=True)
    engine = OrtEngine(bundle.graphs(), bundle.bank(), threads=1)
    recipe = replace(recipe_from_bundle(bundle, policy, engine), geometries=geometries)
    cameras = TwoCameras(
        (good_image(1), left(good_image(2))),
        (good_image(3), left(defect_image(4))),
        (good_image(5), left(good_image(6))),
    )
    with (
        running_broker(folder) as broker,
        Outbox(folder / "outbox.db") as outbox,
        FrameStore(folder / "frames", 10 << 20) as frames,
        Subscriber(broker) as subscriber,
    ):
        context = ResultContext("edge-1", outbox.epoch, ROOT, "hold", simulated=True)
        for trigger in cameras.triggers():
            outbox.open_trigger(trigger)
            inspection = inspect_part(trigger, recipe, audit_draw=0.5)
            result = result_from_inspection(inspection, recipe, context)
            outbox.close_trigger(trigger.seq, bytes_from_payload(result))
            frames.put(inspection, result.result_id, recipe)
        assert outbox.flush(40)
        assert frames.flush(40)
        with publishing(outbox, broker.port, frames, frames_per_min=600):
            received = subscriber.wait_for(lambda m: sum("/frame/" in message.topic for message in m) >= 4)
    engine.close()
    found: dict[str, list[bytes]] = {}
    for message in received:
        found.setdefault(message.topic.removeprefix(f"{ROOT}/"), []).append(message.payload)
    return found


def results(messages: dict[str, list[bytes]]) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in messages["result"]]


def test_each_part_has_one_verdict_and_the_defect_of_one_view_decides(messages: dict[str, list[bytes]]) -> None:
    assert [result["verdict"] for result in results(messages)] == ["pass", "reject", "pass"]
    _, rejected, _ = results(messages)
    assert {reason["view"] for reason in rejected["why"]} == {"left"}
    by_view = rejected["scoresByView"]
    threshold = rejected["thresholds"]["types"]["scratch"]
    assert by_view["main"]["types"]["scratch"] < threshold <= by_view["left"]["types"]["scratch"]
    assert rejected["scores"]["types"] == by_view["left"]["types"]


def test_both_images_of_the_rejected_part_come_on_the_topics_that_its_result_names(
    messages: dict[str, list[bytes]],
) -> None:
    passed, rejected, _ = results(messages)
    assert (passed["image"], passed["images"]) == (None, [])
    below = f"frame/{rejected['resultId']}"
    named = [(image["view"], image["topic"], image["heatmapTopic"]) for image in rejected["images"]]
    assert named == [
        ("main", f"{ROOT}/{below}/image", f"{ROOT}/{below}/heatmap"),
        ("left", f"{ROOT}/{below}/image/left", f"{ROOT}/{below}/heatmap/left"),
    ]
    widths = {}
    for topic, payloads in messages.items():
        if topic.startswith("frame/"):
            (jpeg,) = payloads
            decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert decoded is not None
            widths[topic.removeprefix(f"{below}/")] = decoded.shape[1]
    assert widths == {"image": 128, "heatmap": 128, "image/left": 256, "heatmap/left": 256}
