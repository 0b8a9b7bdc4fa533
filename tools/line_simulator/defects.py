"""Four kinds of defect, each a change of a part's geometry or reflectance.

A defect has a random position, size and depth; it changes the surface in place and returns its coverage in [0, 1] on
the surface's grid, from which the mask is made. Sizes and depths range from obvious to barely visible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tools.line_simulator.surface import HEIGHT_PX, WIDTH_PX, Map, Surface, grid_px, slopes, smooth_noise, stamping

DefectMaker = Callable[[Surface, np.random.Generator], Map]

_FAR = np.float32(1e6)
_DRAWS = 50


@dataclass(frozen=True)
class _Track:
    """Each pixel's position relative to a path: sideways distance and distance along it, in pixels; huge if far."""

    side_px: Map
    along_px: Map
    length_px: float

    @property
    def fraction(self) -> Map:
        """Distance travelled as a share of the path's length."""
        return np.asarray(self.along_px / np.float32(self.length_px), np.float32)


def scratch(surface: Surface, rng: np.random.Generator) -> Map:
    """A groove with raised banks along a slightly bent path, with uneven pressure, through the coating."""
    depth_mm = float(np.exp(rng.uniform(np.log(0.055), np.log(0.13))))
    groove, covered = _plough(surface, rng, int(rng.integers(10, 30)), depth_mm)
    surface.bare[:] = np.maximum(surface.bare, min(0.8, 8 * depth_mm) * groove)
    return covered


def handling_mark(surface: Surface, rng: np.random.Generator) -> None:
    """A faint rub mark as on good parts too: much shallower than a scratch, with intact coating."""
    _plough(surface, rng, int(rng.integers(3, 12)), float(rng.uniform(0.002, 0.006)))


def edge_crack(surface: Surface, rng: np.random.Generator) -> Map:
    """A jagged crack from an edge into the metal that narrows and looks dark; its lips bend down."""
    start, inward = _point_on_edge(rng)
    zigzag = rng.normal(0, 0.55, int(rng.integers(5, 16)))
    track = _track(_path(start, inward + rng.normal(0, 0.35) + zigzag, step_px=4.0), reach_px=12)
    mouth_px = rng.uniform(0.9, 2.4)
    half_width = mouth_px * np.power(np.clip(1 - track.fraction, 0, 1), 0.6)
    beside = np.abs(track.side_px)
    ends = (track.fraction < 1) & (beside < 12)
    gap = np.clip(half_width - beside + 0.35, 0, 1) * ends
    lips = np.exp(-np.square(beside / (half_width + 1.6))) * np.clip(2 - 2 * track.fraction, 0, 1) * ends
    _add_height(surface, np.asarray(-rng.uniform(0.02, 0.06) * lips, np.float32))
    surface.visibility[:] *= 1 - rng.uniform(0.8, 0.95) * gap
    return np.asarray(np.maximum(gap, lips > 0.5) * surface.silhouette, np.float32)


def dent(surface: Surface, rng: np.random.Generator) -> Map:
    """A smooth shallow depression, visible only by its distorted reflections."""
    x, y = grid_px()
    centre = _point_on_metal(rng, margin_px=16)
    radius_px = rng.uniform(11, 26)
    elongation = np.exp(rng.normal(0, 0.22))
    angle = rng.uniform(0, np.pi)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / (radius_px * elongation)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius_px / elongation)
    distance = np.hypot(u, v)
    depth_mm = radius_px * np.exp(rng.uniform(np.log(0.006), np.log(0.022)))
    rim = 0.1 * np.exp(-np.square((distance - 1.2) / 0.22))
    _add_height(surface, np.asarray(depth_mm * (rim - np.exp(-1.6 * np.square(distance))), np.float32))
    return np.asarray((distance < 1.45) * surface.silhouette, np.float32)


def coating_skip(surface: Surface, rng: np.random.Generator) -> Map:
    """A ragged patch with thin or missing coating: bare metal is visible, the shape is unchanged."""
    x, y = grid_px()
    centre = _point_on_metal(rng, margin_px=10)
    radius_px = rng.uniform(9, 30)
    stretch = np.exp(rng.normal(0, 0.3))
    distance = np.hypot((x - centre[0]) / stretch, (y - centre[1]) * stretch) / radius_px
    ragged = distance + 0.28 * smooth_noise(rng, 12) + 0.10 * smooth_noise(rng, 4)
    thinness = rng.uniform(0.4, 1.0)
    patch = np.clip((1 - ragged) / 0.18, 0, 1) * (distance < 1.8)
    surface.bare[:] = np.maximum(surface.bare, thinness * patch)
    return np.asarray(patch * surface.silhouette, np.float32)


DEFECTS: dict[str, DefectMaker] = {
    "coating_skip": coating_skip,
    "dent": dent,
    "edge_crack": edge_crack,
    "scratch": scratch,
}


def _plough(surface: Surface, rng: np.random.Generator, steps: int, depth_mm: float) -> tuple[Map, Map]:
    """Draw a groove over the surface; returns its profile in [0, 1] and the coverage of groove and banks."""
    bend = np.linspace(0, rng.normal(0, 0.35), steps) + rng.normal(0, 0.03, steps)
    track = _track(_path_on_metal(rng, bend, step_px=6.0), reach_px=12)
    pressure = _pressure(track, rng)
    across = track.side_px / np.float32(rng.uniform(1.3, 2.4))
    groove = np.exp(-np.square(across))
    banks = 0.35 * np.exp(-np.square((np.abs(across) - 1.9) / 0.7))
    _add_height(surface, np.asarray(depth_mm * pressure * (banks - groove), np.float32))
    covered = pressure * (np.abs(across) < 2.2) * surface.silhouette
    return np.asarray(pressure * groove, np.float32), np.asarray(covered, np.float32)


def _add_height(surface: Surface, height_mm: Map) -> None:
    p, q = slopes(height_mm)
    surface.p += p
    surface.q += q


def _point_on_metal(rng: np.random.Generator, margin_px: float) -> NDArray[np.float64]:
    """A random point at least `margin_px` from every edge, uniform over the metal."""
    candidates = np.flatnonzero(stamping().edge_distance_px > margin_px)
    return _point_at(int(rng.choice(candidates)))


def _point_on_edge(rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """A random point on an edge (outline or hole), and the direction into the metal."""
    distance = stamping().edge_distance_px
    index = int(rng.choice(np.flatnonzero(np.abs(distance) < 0.5)))
    row, column = divmod(index, WIDTH_PX)
    across = distance[row, column + 2] - distance[row, column - 2]
    down = distance[row + 2, column] - distance[row - 2, column]
    return _point_at(index), float(np.arctan2(down, across))


def _point_at(index: int) -> NDArray[np.float64]:
    row, column = divmod(index, WIDTH_PX)
    return np.array([column - (WIDTH_PX - 1) / 2, row - (HEIGHT_PX - 1) / 2])


def _path(start: NDArray[np.float64], headings: NDArray[np.float64], step_px: float) -> NDArray[np.float64]:
    """Points [K + 1, 2] of a walk from `start`, with one step per heading."""
    steps = step_px * np.column_stack([np.cos(headings), np.sin(headings)])
    return np.vstack([start, start + np.cumsum(steps, axis=0)])


def _path_on_metal(rng: np.random.Generator, bend: NDArray[np.float64], step_px: float) -> NDArray[np.float64]:
    """A random walk, drawn again until nearly all of it is on the metal."""
    distance = stamping().edge_distance_px
    for _ in range(_DRAWS):
        points = _path(_point_on_metal(rng, margin_px=14), rng.uniform(0, 2 * np.pi) + bend, step_px)
        columns, rows = np.rint(points + np.array([WIDTH_PX - 1, HEIGHT_PX - 1]) / 2).astype(int).T
        inside = distance[np.clip(rows, 0, HEIGHT_PX - 1), np.clip(columns, 0, WIDTH_PX - 1)] > 0
        if inside.mean() > 0.9:
            break
    return points


def _track(points: NDArray[np.float64], reach_px: float) -> _Track:
    """Every pixel within `reach_px` of the path, projected onto its nearest segment."""
    side = np.full((HEIGHT_PX, WIDTH_PX), _FAR, np.float32)
    along = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    grid_x, grid_y = grid_px()
    travelled = 0.0
    for (from_x, from_y), (to_x, to_y) in pairwise(points):
        length = float(np.hypot(to_x - from_x, to_y - from_y))
        box = (_span(from_y, to_y, reach_px, HEIGHT_PX), _span(from_x, to_x, reach_px, WIDTH_PX))
        dx, dy = grid_x[box] - from_x, grid_y[box] - from_y
        unit_x, unit_y = (to_x - from_x) / length, (to_y - from_y) / length
        run = np.clip(dx * unit_x + dy * unit_y, 0, length)
        distance = np.hypot(dx - run * unit_x, dy - run * unit_y)
        nearer = distance < np.abs(side[box])
        sign = np.where(dy * unit_x - dx * unit_y < 0, -1, 1)
        side[box][nearer] = (sign * distance)[nearer]
        along[box][nearer] = (travelled + run)[nearer]
        travelled += length
    return _Track(side, along, travelled)


def _span(a: float, b: float, reach_px: float, size_px: int) -> slice:
    centre = (size_px - 1) / 2
    low, high = min(a, b) - reach_px + centre, max(a, b) + reach_px + centre
    return slice(int(np.clip(low, 0, size_px)), int(np.clip(high + 1, 0, size_px)))


def _pressure(track: _Track, rng: np.random.Generator) -> Map:
    """Pressure of the scratching edge along the path, in [0, 1]: soft at both ends, with chatter between."""
    nodes = np.clip(rng.normal(0.85, 0.25, 12), 0.1, 1.0)
    nodes[0] = nodes[-1] = 0.0
    chatter = np.interp(track.fraction, np.linspace(0, 1, len(nodes)), nodes)
    return np.asarray(chatter * (np.abs(track.side_px) < _FAR), np.float32)


def mask_from_coverage(coverage: Map) -> NDArray[np.uint8]:
    """255 where the defect covers a pixel by a quarter or more."""
    return np.where(coverage >= 0.25, np.uint8(255), np.uint8(0))
