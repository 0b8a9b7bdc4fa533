"""One part from one seed: surface, defect, photograph, mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.line_simulator.camera import photograph, pose_from_rng
from tools.line_simulator.defects import DEFECTS, handling_mark, mask_from_coverage
from tools.line_simulator.surface import good_surface

GOOD = "good"
HANDLING_MARKS = 0.4
"""Mean number of faint rub marks per part."""


@dataclass(frozen=True)
class RenderedPart:
    """A grey photograph [H, W] and, for a defective part, its mask (255 = defect)."""

    image_u8: NDArray[np.uint8]
    mask_u8: NDArray[np.uint8] | None


def render_part(seed: tuple[int, ...], kind: str = GOOD) -> RenderedPart:
    """Render a part of a kind, `good` or a defect type; the same seed gives the same bytes.

    Surface, defect and camera use separate random streams, so the same seed with another kind gives the same part and
    photograph except for the defect.
    """
    surface_rng, defect_rng, camera_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    surface = good_surface(surface_rng)
    for _ in range(int(surface_rng.poisson(HANDLING_MARKS))):
        handling_mark(surface, surface_rng)
    coverage = DEFECTS[kind](surface, defect_rng) if kind != GOOD else None
    pose = pose_from_rng(camera_rng)
    mask = mask_from_coverage(pose.warp(coverage)) if coverage is not None else None
    return RenderedPart(photograph(surface, pose, camera_rng), mask)
