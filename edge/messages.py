"""What the stages exchange: frozen dataclasses, in the order in which a part passes through them.

Durations are measured with the monotonic clock, in nanoseconds or milliseconds; records carry UTC in ISO 8601.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PixelArray = NDArray[np.uint8] | NDArray[np.uint16]
MAIN_VIEW = "main"
"""The view of a line with one camera, and of frames stored before there were views."""
VIEW_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
"""Names of views: they become levels of topics and parts of file names."""


class Verdict(str, Enum):
    """What the line does with a part."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    REJECT = "reject"
    REVIEW = "review"
    NOT_INSPECTED = "not_inspected"


class NotInspected(str, Enum):
    """Why a trigger got no inspection."""

    OVERLOAD = "overload"
    RESTART = "restart"
    DEVICE_DOWN = "device_down"
    CAMERA = "camera"
    BAD_FRAME = "bad_frame"
    ENGINE = "engine"
    DISARMED = "disarmed"


Authority = Literal["review", "demo_reject", "reject"]
"""What a score above its threshold may cause: review, reject in a demo-signed bundle only, reject."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One photograph of one part as the camera delivered it.

    `pixels` is [H, W] grey or [H, W, 3] BGR or [H, W, 4] BGRA, uint8 or full-scale uint16.
    `counter` is the running number of triggers, counted by the camera or the line; a gap shows missed parts.
    """

    frame_id: str
    part_id: str | None
    counter: int
    captured_at_utc: str
    captured_monotonic_ns: int
    pixels: PixelArray


@dataclass(frozen=True, slots=True)
class View:
    """One side of a part: its name, the same for every part, and this part's frame.

    Raises:
        ValueError: the name does not fit `VIEW_PATTERN`.
    """

    name: str
    frame: Frame

    def __post_init__(self) -> None:
        if re.fullmatch(VIEW_PATTERN, self.name) is None:
            raise ValueError(f"{self.name!r} names no view: use up to 32 of a-z, 0-9, _ and -")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A part at the camera; written to the outbox's journal under `seq` before anything else happens to it.

    `views` has a frame for each view of the part. If it cannot be inspected, it has none, and `not_inspected` is the
    reason.
    """

    seq: int
    frame_id: str
    part_id: str | None
    counter: int
    triggered_at_utc: str
    triggered_monotonic_ns: int
    views: tuple[View, ...] = ()
    not_inspected: NotInspected | None = None

    def refused(self, reason: NotInspected) -> Trigger:
        """The same part without its frames: it gets the result `not_inspected` for this reason."""
        return replace(self, views=(), not_inspected=reason)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one frame by both scorers: the maximum over its N tiles, and their maps.

    `type_scores` are sigmoids in [0, 1] in the bundle's order of types; `defect_maps` [N, T, h, w] (logits) and
    `anomaly_map` [N, h, w] (distances) have one value per patch of each tile.
    """

    type_scores: tuple[float, ...]
    anomaly_score: float
    defect_maps: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ViewScores:
    """The scores of one view of a part."""

    view: str
    scores: Scores


def of_main_view(scores: Scores) -> tuple[ViewScores, ...]:
    """The scores of a part with one view."""
    return (ViewScores(MAIN_VIEW, scores),)


@dataclass(frozen=True, slots=True)
class Why:
    """One reason for a decision: scorer, defect type, score, threshold and authority; None where it does not apply.

    `view` is the one with this score; None if the part has a single view.
    """

    scorer: Literal["head", "anomaly", "system"]
    defect_type: str | None
    score: float | None
    threshold: float | None
    authority: Authority | None
    text: str
    view: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one part and every reason for it; `audit` marks a pass drawn at random for a second look."""

    verdict: Verdict
    why: tuple[Why, ...]
    not_inspected: NotInspected | None = None
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds that each stage took for all views; `queue_ms` is the wait between trigger and inspection."""

    queue_ms: float = 0.0
    preprocess_ms: float = 0.0
    engine_ms: float = 0.0
    decide_ms: float = 0.0

    @property
    def inspect_ms(self) -> float:
        """From the frames in memory to the verdict, without `queue_ms`."""
        return self.preprocess_ms + self.engine_ms + self.decide_ms


@dataclass(frozen=True, slots=True)
class Inspection:
    """A trigger with its decision; stored in the outbox as a result. `scores` is empty if no view was scored."""

    trigger: Trigger
    decision: Decision
    scores: tuple[ViewScores, ...]
    timings: Timings
    decided_at_utc: str


@dataclass(frozen=True, slots=True)
class PinAnswer:
    """Number of frames that a label pinned, will pin once they are written, or could not pin because the quota is full.

    All zero if no frame of that part or result is stored any more.
    """

    pinned: int = 0
    coming: int = 0
    no_room: int = 0
