"""The FrameSource protocol: what the capture thread asks of a camera, and how a camera is found by its kind.

A camera is a class registered in the entry-point group `procunit.cameras`; its `settings_model` validates the
`camera` section of the settings file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Protocol

from pydantic import Field

from edge.errors import ProcunitError
from edge.messages import Frame
from edge.settings_section import Section

ENTRY_POINT_GROUP = "procunit.cameras"


class CameraError(Exception):
    """The camera failed and must be opened again."""


class FrameError(Exception):
    """The frame of one trigger is lost or unusable; the camera goes on."""


class SourceEnded(Exception):  # noqa: N818  (no error: a replay is over)
    """No trigger will come any more."""


class CameraSettings(Section):
    """What every kind of camera has in common; each kind adds its own keys."""

    kind: str = Field(title="Kind", description="Kind of camera, one of the installed kinds")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A part at the camera, before its frame is read; `counter` is the running number that proves none was missed."""

    frame_id: str
    part_id: str | None
    counter: int
    arrived_at_utc: str
    arrived_monotonic_ns: int


class FrameSource(Protocol):
    """A camera at the line; owned by one thread."""

    self_paced: bool
    """True if the source waits for the inspection (a replay as fast as it goes) instead of a line that does not."""

    def wait_arrival(self, timeout_s: float) -> Arrival | None:
        """The next part, or None if none came in time.

        Raises:
            CameraError: the camera must be opened again.
            SourceEnded: there will be no further part.
        """
        ...

    def read_frame(self, arrival: Arrival) -> Frame:
        """The frame of the part that arrived last; not asked for when there is no room for it.

        Raises:
            FrameError: this frame is lost; the next may be fine.
            CameraError: the camera must be opened again.
        """
        ...

    def close(self) -> None:
        """Let go of the camera."""
        ...


class CameraType(Protocol):
    """A kind of camera: its settings and how it is opened."""

    settings_model: ClassVar[type[CameraSettings]]
    simulated: ClassVar[bool]
    """True if its parts do not pass a line: results say so."""

    def __call__(self, settings: CameraSettings, *, after_counter: int | None) -> FrameSource:
        """Open the camera; `after_counter` is the counter of the last part before, if there was one.

        Raises:
            ProcunitError: the settings cannot work; a person must act.
            CameraError: it does not answer now; it may later.
        """
        ...


def camera_kinds() -> tuple[str, ...]:
    """The kinds of camera installed here, sorted."""
    return tuple(sorted(_entry_points()))


def camera_type_from_kind(kind: str) -> CameraType:
    """The class of a kind of camera.

    Raises:
        ProcunitError: there is no such kind, or what it needs is not installed.
    """
    entry_point = _entry_points().get(kind)
    if entry_point is None:
        raise ProcunitError(f"no camera kind {kind!r}", remedy=f"Installed kinds: {', '.join(camera_kinds())}")
    try:
        camera_type: CameraType = entry_point.load()
    except ImportError as error:
        raise ProcunitError(
            f"the camera kind {kind!r} cannot be loaded: {error}", remedy="Install what this camera needs"
        ) from error
    return camera_type


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
