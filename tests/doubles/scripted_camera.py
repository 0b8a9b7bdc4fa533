"""A test double of a hardware camera: follows a script, with given counters, and fails on demand.

It is found as a third-party camera would be, through the entry-point group `procunit.cameras`.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from edge.camera.source import Arrival, CameraError, CameraSettings, FrameError, SourceEnded
from edge.messages import Frame
from edge.system.clock import utc_now
from tests.support.installed_kind import install_kind
from tests.support.tiny_bundle import defect_image, good_image

Step = int | Literal["break", "bug", "lost", "late", "unreadable", "stale", "shifted", "stuck", "pause", "gate", "hang"]


class ScriptedSettings(CameraSettings):
    """Steps: a number is a part with this counter; `lost`, `late`, `unreadable`, `stale`, `shifted` and `stuck` apply
    to the next part.

    `break` raises the error that a camera should raise, `bug` another one; at a `gate` no part comes until
    `ScriptedCamera.gate` is set. `stale`: the frame of the counter before comes first; `shifted`: only the frame of the
    next counter comes; at a `hang` `wait_arrival`, and at a `stuck` part `read_frame`, returns when
    `ScriptedCamera.released` is set.
    """

    kind: Literal["scripted"] = Field(title="Kind", description="A camera for tests")
    steps: tuple[Step, ...] = Field(title="Steps", description="What happens, one after the other")
    refusals: int = Field(default=0, title="Refusals", description="How often it cannot be opened")


class ScriptedCamera:
    """Runs through the steps once per process, across all its openings."""

    settings_model: ClassVar[type[CameraSettings]] = ScriptedSettings
    simulated: ClassVar[bool] = False
    step: ClassVar[int] = 0
    openings: ClassVar[list[int | None]] = []
    gate: ClassVar[threading.Event] = threading.Event()
    released: ClassVar[threading.Event] = threading.Event()
    self_paced = False

    def __init__(self, settings: ScriptedSettings, *, after_counter: int | None) -> None:
        type(self).openings.append(after_counter)
        if len(self.openings) <= settings.refusals:
            raise CameraError("the camera does not answer")
        self._steps = settings.steps
        self._flags: set[Step] = set()

    def wait_arrival(self, timeout_s: float) -> Arrival | None:
        """Carry out the next step."""
        if self.step == len(self._steps):
            raise SourceEnded
        step = self._steps[self.step]
        if step == "gate" and not self.gate.wait(timeout_s):
            return None
        type(self).step += 1
        if step == "break":
            raise CameraError("the cable is out")
        if step == "bug":
            raise ZeroDivisionError("a driver's mistake")
        if step == "hang":
            self.released.wait()
        if step == "pause":
            time.sleep(timeout_s)
        elif isinstance(step, str) and step not in ("gate", "hang"):
            self._flags.add(step)
        elif isinstance(step, int):
            late_ns = 3600 * 10**9 if "late" in self._flags else 0
            return Arrival(f"frame-{step}", None, step, utc_now(), time.monotonic_ns() - late_ns)
        return None

    def read_frame(self, arrival: Arrival) -> Frame:
        """The frame of a good part, unless the script says otherwise."""
        flags, self._flags = self._flags, set()
        if "lost" in flags:
            raise FrameError("half of the frame is missing")
        if "unreadable" in flags:
            raise CameraError("the cable is out")
        if "stuck" in flags:
            self.released.wait()
        counter = arrival.counter + ("shifted" in flags) - ("stale" in flags)
        pixels = defect_image(counter) if counter != arrival.counter else good_image(counter)
        return Frame(f"frame-{counter}", None, counter, utc_now(), arrival.arrived_monotonic_ns, pixels)

    def close(self) -> None:
        """Nothing is held open."""


def install(folder: Path) -> None:
    """Register the camera as an installed package would; `folder` must be on the import path."""
    install_kind(folder, "procunit.cameras", "scripted", ScriptedCamera)
    ScriptedCamera.step = 0
    ScriptedCamera.gate.clear()
    ScriptedCamera.released.clear()
    ScriptedCamera.openings.clear()
