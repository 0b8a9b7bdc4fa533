"""All that stages exchange: frozen dataclasses, in the order in which a part meets them.

Durations come from the monotonic clock in nanoseconds or milliseconds; records carry UTC in ISO 8601.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PixelArray = NDArray[np.uint8] | NDArray[np.uint16]


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
"""What a defect type's score may do: send to review, reject in a demo-signed bundle, reject."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One photograph of one part as it left the camera.

    `pixels` is [H, W] grey or [H, W, 3] BGR or [H, W, 4] BGRA, uint8 or full-scale uint16.
    `counter` is the camera's or the line's own running number of triggers, the proof that none was missed.
    """

    frame_id: str
    part_id: str | None
    counter: int
    captured_at_utc: str
    captured_monotonic_ns: int
    pixels: PixelArray


@dataclass(frozen=True, slots=True)
class Trigger:
    """A part that passed the camera: written to the journal under `seq` before anything else happens to it.

    `frame` is None, and `not_inspected` says why, when the part cannot be served.
    """

    seq: int
    frame_id: str
    part_id: str | None
    counter: int
    triggered_at_utc: str
    triggered_monotonic_ns: int
    frame: Frame | None
    not_inspected: NotInspected | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What both scorers say of one frame, tiles merged.

    `type_scores` are sigmoids in [0, 1] in the bundle's order of types; `defect_maps` [N, T, h, w] (logits) and
    `anomaly_map` [N, h, w] (distances) are on the grid of each tile.
    """

    type_scores: tuple[float, ...]
    anomaly_score: float
    defect_maps: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Why:
    """One reason of a decision: which scorer, which type, which threshold, what authority."""

    scorer: Literal["head", "anomaly", "system"]
    defect_type: str | None
    score: float | None
    threshold: float | None
    authority: Authority | None
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one part and every reason for it; `audit` marks a pass drawn for a person's second look."""

    verdict: Verdict
    why: tuple[Why, ...]
    not_inspected: NotInspected | None = None
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a part's time went, in milliseconds; `queue_ms` is the wait between capture and inspection."""

    queue_ms: float = 0.0
    preprocess_ms: float = 0.0
    engine_ms: float = 0.0
    decide_ms: float = 0.0

    @property
    def inspect_ms(self) -> float:
        """Frame in memory to verdict, without queueing."""
        return self.preprocess_ms + self.engine_ms + self.decide_ms


@dataclass(frozen=True, slots=True)
class Inspection:
    """A trigger with its verdict: what goes to the outbox."""

    trigger: Trigger
    decision: Decision
    scores: Scores | None
    timings: Timings
    decided_at_utc: str


@dataclass(frozen=True, slots=True)
class PinAnswer:
    """What became of a label: frames that are pinned now, that will be when they are written, and without room.

    All zero: no frame of that part or result is there any more.
    """

    pinned: int = 0
    coming: int = 0
    no_room: int = 0
