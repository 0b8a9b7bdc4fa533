"""The coreset race: both sides select from the same points in turn; each covering radius is computed in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.benchmarks.peers.children import Side, run_side
from tools.benchmarks.peers.points import exact_radius, write_points


@dataclass(frozen=True, slots=True)
class Heat:
    """Laps of each side over the same points; the seeds are 0, 1, 2, ..."""

    points: int
    rows: int
    laps: int
    sides: tuple[Side, ...]


HEATS = (
    Heat(points=50_000, rows=500, laps=3, sides=("anomalib", "ours")),
    Heat(points=1_000_000, rows=10_000, laps=1, sides=("ours",)),
)


@dataclass(frozen=True, slots=True)
class Lap:
    """One side's lap: its time, the peak memory of its process with the points, and its covering radius."""

    side: Side
    version: str
    points: int
    rows: int
    seconds: float
    peak_mb: float
    covering_radius: float


def laps_of_heat(heat: Heat, directory: Path) -> Iterator[Lap]:
    """Run a heat with alternating sides; the points are stored in `directory`.

    Raises:
        ProcunitError: a side could not run.
    """
    points_file, chosen_file = directory / "points.npy", directory / "chosen.npy"
    write_points(points_file, heat.points)
    points = np.load(points_file, mmap_mode="r")
    for seed in range(heat.laps):
        for side in heat.sides:
            figures = json.loads(run_side(side, "lap", side, points_file, str(heat.rows), str(seed), chosen_file))
            chosen = np.load(chosen_file)
            radius = exact_radius(points, chosen)
            yield Lap(
                side, figures["version"], heat.points, len(chosen), figures["seconds"], figures["peak_mb"], radius
            )
