"""The schedule of a run: which parts arrive, when, and with which defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.line_simulator.defects import DEFECTS
from tools.line_simulator.part import GOOD

DEAD_TIME = 0.6
"""Minimum spacing of two parts as a share of the mean spacing; the rest is exponential."""


@dataclass(frozen=True)
class LinePart:
    """One part on the line: its 1-based number, seconds since the line started, and `good` or a defect type."""

    number: int
    arrival_s: float
    truth: str


@dataclass(frozen=True)
class Burst:
    """Consecutive parts with the same defect, as from a worn or damaged tool."""

    first: int
    length: int
    defect_type: str


def line_schedule(
    *, seed: int, parts: int, defect_rate: float, bursts: int, burst_length: int, parts_per_min: float
) -> list[LinePart]:
    """The run of a line in order of arrival; the same arguments give the same run.

    Outside bursts a part is defective with probability `defect_rate`, all types equally. Arrivals are a Poisson process
    with dead time around `parts_per_min`.
    """
    rng = np.random.default_rng(seed)
    spacing_s = 60 / parts_per_min
    gaps_s = spacing_s * (DEAD_TIME + rng.exponential(1 - DEAD_TIME, parts))
    types = tuple(DEFECTS)
    truths = [str(rng.choice(types)) if rng.random() < defect_rate else GOOD for _ in range(parts)]
    for burst in _bursts(rng, parts, bursts, burst_length):
        truths[burst.first : burst.first + burst.length] = [burst.defect_type] * burst.length
    return [
        LinePart(number, float(arrival_s), truth)
        for number, (arrival_s, truth) in enumerate(zip(np.cumsum(gaps_s), truths, strict=True), start=1)
    ]


def _bursts(rng: np.random.Generator, parts: int, bursts: int, burst_length: int) -> list[Burst]:
    """One burst in each of `bursts` equal sections of the run, so that bursts never overlap."""
    stretch = parts // bursts if bursts else 0
    length = min(burst_length, stretch)
    return [
        Burst(index * stretch + int(rng.integers(stretch - length + 1)), length, str(rng.choice(tuple(DEFECTS))))
        for index in range(bursts)
    ]
