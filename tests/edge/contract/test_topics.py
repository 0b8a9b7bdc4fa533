"""The root of a device's topics, and the table of topics."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edge.contract.encoding import result_id
from edge.contract.topics import FRAME_IMAGE, RESULT, TOPICS, DeviceSettings, root_from_device
from edge.outbox.outbox import MessageKind


def test_the_root_has_the_levels_in_the_order_of_isa_95() -> None:
    device = DeviceSettings(enterprise="acme", site="ulm", area="press", line="l1", cell="c2", device="edge-1")
    assert root_from_device(device) == "acme/ulm/press/l1/c2/edge-1/v1"


def test_levels_that_a_plant_does_not_use_are_left_out() -> None:
    assert root_from_device(DeviceSettings(device="edge-1")) == "edge-1/v1"
    assert root_from_device(DeviceSettings(line="l1", device="edge-1")) == "l1/edge-1/v1"


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "$SYS", "a b", "a\x00", "a\nb"])
def test_a_name_that_would_change_the_topic_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        DeviceSettings(device=name)


def test_the_kinds_of_messages_in_the_outbox_are_topics_of_the_table() -> None:
    suffixes = [topic.suffix for topic in TOPICS]
    assert len(set(suffixes)) == len(suffixes)
    assert {kind.value for kind in MessageKind} <= set(suffixes)


def test_a_topic_is_filled_in_below_the_root() -> None:
    identity = result_id("0123456789abcdef", 7)
    assert FRAME_IMAGE.at("edge-1/v1", resultId=identity) == "edge-1/v1/frame/0123456789abcdef-7/image"
    assert RESULT.at("edge-1/v1") == "edge-1/v1/result"
    with pytest.raises(KeyError):
        FRAME_IMAGE.at("edge-1/v1")
