"""The table of topics: what the device publishes, where, and with which promises.

The root follows ISA-95: enterprise/site/area/line/cell/device/v1; a level that a plant does not use is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.config import DeviceSettings
from edge.payloads import Event, Result, Status

VERSION = "v1"
"""Last level of the root; a change that breaks receivers makes it v2."""
JSON, JPEG = "application/json", "image/jpeg"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic below the device's root; every message is sent with QoS 1.

    `payload` is the model of its JSON, or None for a JPEG; `rate` says how often to expect it.
    """

    name: str
    suffix: str
    payload: type[Result | Event | Status] | None
    retain: bool
    rate: str
    text: str


RESULT = Topic("result", "result", Result, False, "one a part", "The verdict on every trigger, in order, never lost")
EVENT = Topic("event", "event", Event, False, "when it happens", "Faults, with what to do about them")
STATUS = Topic("status", "status", Status, True, "when it changes", "Running, stopped, or offline by will")
FRAME_IMAGE = Topic(
    "frame_image",
    "frame/{resultId}/image",
    None,
    False,
    "rejected, review and audited parts",
    "The part's photograph as a JPEG; best effort, always behind the results",
)

TOPICS = (RESULT, EVENT, STATUS, FRAME_IMAGE)


def root_from_device(device: DeviceSettings) -> str:
    """The root of a device's topics."""
    levels = (device.enterprise, device.site, device.area, device.line, device.cell, device.device, VERSION)
    return "/".join(level for level in levels if level)
