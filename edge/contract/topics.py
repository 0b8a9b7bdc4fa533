"""The table of topics: what the device publishes and takes, where, and with which promises.

The root follows ISA-95: enterprise/site/area/line/cell/device/v1; a level that a plant does not use is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edge.contract.commands import Command, CommandReply
from edge.contract.payloads import Event, Metrics, Result, Status
from edge.settings_section import (
    Section,
)

VERSION = "v1"
"""Last level of the root; a change that breaks receivers makes it v2."""
JSON, JPEG = "application/json", "image/jpeg"

Direction = Literal["out", "in"]
"""out: the device publishes; in: it subscribes."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic below the device's root.

    `payload` is the model of its JSON (of a command, the part that all have), or None for a JPEG; `rate` says how
    often to expect it.
    """

    name: str
    suffix: str
    payload: type[Result | Event | Status | Metrics | Command | CommandReply] | None
    retain: bool
    rate: str
    text: str
    direction: Direction = "out"
    qos: Literal[1] = 1

    def at(self, root: str, **levels: str) -> str:
        """The whole topic below this `root`; `levels` are the values of the levels in braces, or `+` for any.

        Raises:
            KeyError: a level has no value.
        """
        return f"{root}/{self.suffix.format(**levels)}"


RESULT = Topic("result", "result", Result, False, "one a part", "The verdict on every trigger, in order, never lost")
RESULT_LAST = Topic(
    "result_last",
    "result/last",
    Result,
    True,
    "at most one a part",
    "The newest result again, for whoever connects later; left out while older ones still wait",
)
EVENT = Topic("event", "event", Event, False, "when it happens", "Faults, with what to do about them; commands' audits")
STATUS = Topic(
    "status", "status", Status, True, "when it changes", "Starting, running, stopped (birth), or offline by will"
)
METRICS = Topic("metrics", "metrics", Metrics, False, "every 10 s", "Counts, latencies, backlog, disk, temperatures")
FRAME_IMAGE = Topic(
    "frame_image",
    "frame/{resultId}/image",
    None,
    False,
    "rejected, review and audited parts",
    "The part's photograph as a JPEG; best effort, always behind the results",
)
FRAME_HEATMAP = Topic(
    "frame_heatmap",
    "frame/{resultId}/heatmap",
    None,
    False,
    "with the photograph",
    "Where the scores come from, over the photograph, as a JPEG; best effort",
)
COMMAND = Topic(
    "command", "cmd/{name}", Command, False, "as the plant likes", "A command; a retained one is refused", "in"
)
COMMAND_REPLY = Topic(
    "command_reply",
    "cmd/{name}/reply",
    CommandReply,
    False,
    "one a command",
    "What became of it; on MQTT 5 also below this topic, as the command's response topic says",
)

TOPICS = (RESULT, RESULT_LAST, EVENT, STATUS, METRICS, FRAME_IMAGE, FRAME_HEATMAP, COMMAND, COMMAND_REPLY)


def root_from_device(device: DeviceSettings) -> str:
    """The root of a device's topics."""
    levels = (device.enterprise, device.site, device.area, device.line, device.cell, device.device, VERSION)
    return "/".join(level for level in levels if level)


Level = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""One level of a topic: letters, digits, `_`, `.` and `-`."""


class DeviceSettings(Section):
    """Where the device stands: the levels above it in the plant's topic tree (ISA-95), each optional, and its name."""

    enterprise: Level | None = Field(default=None, title="Enterprise", description="Topic level of the enterprise")
    site: Level | None = Field(default=None, title="Site", description="Topic level of the site")
    area: Level | None = Field(default=None, title="Area", description="Topic level of the area")
    line: Level | None = Field(default=None, title="Line", description="Topic level of the line")
    cell: Level | None = Field(default=None, title="Cell", description="Topic level of the cell")
    device: Level = Field(
        title="Device", description="This device's name, different from every other on the broker (A-Z a-z 0-9 _ . -)"
    )
