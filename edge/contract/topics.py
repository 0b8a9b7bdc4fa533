"""The table of topics: every topic on which the device publishes or to which it subscribes, with payload, retain, rate.

The root follows ISA-95: enterprise/site/area/line/cell/device/v1; a level that a plant does not use is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edge.contract.commands import Command, CommandReply
from edge.contract.metrics import Metrics
from edge.contract.payloads import Event, Result, Status
from edge.messages import MAIN_VIEW
from edge.settings_section import Section

VERSION = "v1"
"""Last level of the root; it becomes v2 with a change that breaks receivers."""
JSON, JPEG = "application/json", "image/jpeg"

Direction = Literal["out", "in"]
"""out: the device publishes; in: it subscribes."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic below the device's root.

    `payload` is the model of its JSON (for commands, the common envelope), or None for a JPEG; `rate` is how often to
    expect a message.
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


RESULT = Topic("result", "result", Result, False, "one per part", "The verdict on every trigger, in order, never lost")
RESULT_LAST = Topic(
    "result_last",
    "result/last",
    Result,
    True,
    "at most one per part",
    "The newest result again, retained for later subscribers; not published while older results are unsent",
)
EVENT = Topic(
    "event", "event", Event, False, "when it happens", "Faults, with what to do about them; audits of commands"
)
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
    "The part's photograph as a JPEG; best effort, sent only after all results",
)
FRAME_HEATMAP = Topic(
    "frame_heatmap",
    "frame/{resultId}/heatmap",
    None,
    False,
    "with the photograph",
    "A heatmap of the scores drawn over the photograph, as a JPEG; best effort",
)
FRAME_VIEW_IMAGE = Topic(
    "frame_view_image",
    "frame/{resultId}/image/{view}",
    None,
    False,
    "on lines with several views, with the photograph",
    "The photograph of a view other than `main`, as a JPEG; best effort",
)
FRAME_VIEW_HEATMAP = Topic(
    "frame_view_heatmap",
    "frame/{resultId}/heatmap/{view}",
    None,
    False,
    "with the view's photograph",
    "The heatmap of a view other than `main`, as a JPEG; best effort",
)
COMMAND = Topic(
    "command", "cmd/{name}", Command, False, "at the plant's choice", "A command; a retained one is refused", "in"
)
COMMAND_REPLY = Topic(
    "command_reply",
    "cmd/{name}/reply",
    CommandReply,
    False,
    "one per command",
    "The outcome of a command; with MQTT 5 on the command's response topic, if that is below this topic",
)

TOPICS = (
    RESULT,
    RESULT_LAST,
    EVENT,
    STATUS,
    METRICS,
    FRAME_IMAGE,
    FRAME_HEATMAP,
    FRAME_VIEW_IMAGE,
    FRAME_VIEW_HEATMAP,
    COMMAND,
    COMMAND_REPLY,
)


def image_topic(view: str) -> Topic:
    """The topic of a view's photograph: that of `main` is the one that every receiver knows."""
    return FRAME_IMAGE if view == MAIN_VIEW else FRAME_VIEW_IMAGE


def heatmap_topic(view: str) -> Topic:
    """The topic of a view's heatmap."""
    return FRAME_HEATMAP if view == MAIN_VIEW else FRAME_VIEW_HEATMAP


def root_from_device(device: DeviceSettings) -> str:
    """The root of a device's topics."""
    levels = (device.enterprise, device.site, device.area, device.line, device.cell, device.device, VERSION)
    return "/".join(level for level in levels if level)


Level = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""One level of a topic: letters, digits, `_`, `.` and `-`."""


class DeviceSettings(Section):
    """The device's name, and its place in the plant: the topic levels above it (ISA-95), each optional."""

    enterprise: Level | None = Field(default=None, title="Enterprise", description="Topic level of the enterprise")
    site: Level | None = Field(default=None, title="Site", description="Topic level of the site")
    area: Level | None = Field(default=None, title="Area", description="Topic level of the area")
    line: Level | None = Field(default=None, title="Line", description="Topic level of the line")
    cell: Level | None = Field(default=None, title="Cell", description="Topic level of the cell")
    device: Level = Field(title="Device", description="This device's name, unique on the broker (A-Z a-z 0-9 _ . -)")
