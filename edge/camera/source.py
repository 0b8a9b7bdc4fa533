"""What gives triggers (`TriggerSource`) and frames (`FrameSource`), and the registry of camera kinds.

A camera gives both; a line may also take its triggers from elsewhere. A camera is a class registered in the entry-point
group `procunit.cameras`; its `settings_model` validates the `camera` section of the settings file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from pydantic import Field

from edge.kinds import Kinds
from edge.messages import Frame
from edge.settings_section import Section


class CameraError(Exception):
    """The camera failed; it must be closed and opened again."""


class FrameError(Exception):
    """The frame of one trigger is lost or unusable; the camera works on."""


class SourceEnded(Exception):  # noqa: N818  (no error: a replay is over)
    """There will be no further trigger."""


class CameraSettings(Section):
    """Settings common to all kinds of camera; each kind adds its keys."""

    kind: str = Field(title="Kind", description="Kind of camera, one of the installed kinds")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A part at the camera, before its frame is read; gaps in the running number `counter` show missed parts."""

    frame_id: str
    part_id: str | None
    counter: int
    arrived_at_utc: str
    arrived_monotonic_ns: int


class TriggerSource(Protocol):
    """Something open that reports each part; one thread opens, calls and closes it (`edge/camera/driver.py`)."""

    self_paced: bool
    """True if the source waits for the inspection (a replay at full speed); False on a line, which never waits. It is
    the same at every opening."""

    def wait_arrival(self, timeout_s: float) -> Arrival | None:
        """Wait for the next part; None if none came in time.

        Raises:
            CameraError: the source must be opened again.
            SourceEnded: there will be no further part.
        """
        ...

    def close(self) -> None:
        """Release what was opened."""
        ...


class FrameSource(Protocol):
    """Something open that takes the frame of each part; one thread opens, calls and closes it."""

    def read_frame(self, arrival: Arrival) -> Frame:
        """Read the next frame, which should be that of the part that arrived last; not called if no frame slot is free.

        The frame carries the counter of its own trigger: it is used for no other part (`edge/line/frame_matcher.py`),
        and if it is older than `arrival`, this is called again.

        Raises:
            FrameError: the frame of this part is lost; the next may be fine.
            CameraError: the source must be opened again.
        """
        ...

    def close(self) -> None:
        """Release what was opened."""
        ...


class Camera(TriggerSource, FrameSource, Protocol):
    """An open camera that reports the parts and takes their frames."""


class CameraType(Protocol):
    """A kind of camera: its settings and how it is opened."""

    settings_model: ClassVar[type[CameraSettings]]
    simulated: ClassVar[bool]
    """True if its parts are not on a real line; every result is then marked as simulated."""

    def __call__(self, settings: CameraSettings, *, after_counter: int | None) -> Camera:
        """Open the camera; `after_counter` is the counter of the last part before, None if there was none.

        Raises:
            ProcunitError: the camera cannot work with these settings.
            CameraError: the camera does not answer now; opening it again may succeed.
        """
        ...


CAMERAS: Kinds[CameraType] = Kinds("camera", "procunit.cameras")
"""The installed kinds of camera."""
