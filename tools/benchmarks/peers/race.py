"""The coreset race: both sides choose among the same points, in turn, and every outcome is judged in float64."""

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
    """So many laps of each side over the same points; the seed counts up from 0 with the laps."""

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
    """How one side did: its time, its process's peak memory with the points in it, and what it chose."""

    side: Side
    version: str
    points: int
    rows: int
    seconds: float
    peak_mb: float
    covering_radius: float


def laps_of_heat(heat: Heat, directory: Path) -> Iterator[Lap]:
    """Run a heat, the sides taking turns; `directory` holds the points meanwhile.

    Raises:
        ProcunitError: a side could not run.
    """
    points_file, chosen_file = directory / "points.npy", directory / "chosen.npy"
    write_points(points_file, heat.points)
    points = np.load(points_file, mmap_mode="r")
    for seed in range(heat.laps):
        for side in heat.sides:
            told = json.loads(run_side(side, "lap", side, points_file, str(heat.rows), str(seed), chosen_file))
            chosen = np.load(chosen_file)
            radius = exact_radius(points, chosen)
            yield Lap(side, told["version"], heat.points, len(chosen), told["seconds"], told["peak_mb"], radius)
