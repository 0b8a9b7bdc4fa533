"""The stamped bracket as a surface: slopes of its height field, reflectance and shadowing.

Slopes have no unit; `p` is the slope along x, `q` along y (y points down, as in images). All maps are float32
[HEIGHT_PX, WIDTH_PX] in the part's own frame, centred on the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX = 480, 400
MM_PER_PX = 0.1

Map = NDArray[np.float32]

_OUTLINE_HALF_PX = (196.0, 146.0)
_CORNER_RADIUS_PX = 38.0
_NOTCHES_PX = ((-206.0, 6.0, 30.0), (206.0, 6.0, 30.0))
_CENTRE_HOLE_PX = (0.0, -14.0, 44.0)
_BOLT_HOLES_PX = ((-140.0, -88.0, 21.0), (140.0, -88.0, 21.0))
_SLOT_PX = (-34.0, 34.0, 112.0, 11.0)  # from x, to x, y, half width
_RIBS_PX = ((-150.0, -78.0, 66.0, 15.0), (78.0, 150.0, 66.0, 15.0))
_COLLAR_WIDTH_PX = 34.0
_COLLAR_HEIGHT_MM, _COLLAR_FLANK_PX = 0.42, 13.0
_RIB_HEIGHT_MM, _RIB_FLANK_PX = 0.75, 17.0
_DUST_SPECKS = 3.0
"""Mean number per part."""
_EDGE_ROLL_PX, _EDGE_ROLL_MM = 9.0, 0.42
"""Die roll: how far from a sheared edge the sheet bends down, and by how much."""


@dataclass
class Surface:
    """One part's surface; defects change these maps in place.

    `bare` is the share of bare metal where the coating is missing, `albedo` scales diffuse reflection, `visibility`
    is the share of the light that reaches a point and returns.
    """

    p: Map
    q: Map
    albedo: Map
    bare: Map
    visibility: Map
    silhouette: Map


@dataclass(frozen=True)
class Stamping:
    """The nominal shape from the stamping tool, the same for every part."""

    edge_distance_px: Map
    """Distance to the nearest edge, outline or hole; positive on the metal."""
    roll_p: Map
    roll_q: Map
    emboss_p: Map
    emboss_q: Map
    openness: Map
    silhouette: Map
    belt_openness: Map


@cache
def grid_px() -> tuple[Map, Map]:
    """x and y of every pixel's centre, from the part's centre."""
    x = np.arange(WIDTH_PX, dtype=np.float32) - np.float32((WIDTH_PX - 1) / 2)
    y = np.arange(HEIGHT_PX, dtype=np.float32) - np.float32((HEIGHT_PX - 1) / 2)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


@cache
def stamping() -> Stamping:
    """The bracket: a plate with notches, a collared hole, two bolt holes, a slot and two ribs."""
    x, y = grid_px()
    openings = [_circle(x, y, *hole) for hole in (*_NOTCHES_PX, _CENTRE_HOLE_PX, *_BOLT_HOLES_PX)]
    openings.append(_capsule(x, y, *_SLOT_PX))
    outside = np.maximum.reduce([_rounded_box(x, y), *(-opening for opening in openings)])
    inside = (-outside).astype(np.float32)
    roll = -_EDGE_ROLL_MM * np.square(np.clip(1 - inside / _EDGE_ROLL_PX, 0, 1.2))
    collar = _COLLAR_HEIGHT_MM * _step((_COLLAR_WIDTH_PX - _circle(x, y, *_CENTRE_HOLE_PX)) / _COLLAR_FLANK_PX)
    ribs = [_RIB_HEIGHT_MM * _step(0.5 - _capsule(x, y, *rib) / _RIB_FLANK_PX) for rib in _RIBS_PX]
    emboss = collar + np.add.reduce(ribs)
    roll_p, roll_q = slopes(roll)
    emboss_p, emboss_q = slopes(emboss)
    height = emboss + roll
    silhouette = np.clip(inside + 0.5, 0, 1).astype(np.float32)
    hollow = np.maximum(cv2.GaussianBlur(height, (0, 0), 9) - height, 0)
    return Stamping(
        edge_distance_px=inside,
        roll_p=roll_p,
        roll_q=roll_q,
        emboss_p=emboss_p,
        emboss_q=emboss_q,
        openness=np.clip(1 - 1.1 * hollow, 0.5, 1).astype(np.float32),
        silhouette=silhouette,
        belt_openness=(1 - 0.85 * cv2.GaussianBlur(silhouette, (0, 0), 14)).astype(np.float32),
    )


def good_surface(rng: np.random.Generator) -> Surface:
    """A good part: the tool's shape with small variations, and the brushing texture."""
    tool = stamping()
    x, y = grid_px()
    emboss, roll = rng.normal(1, 0.03), rng.normal(1, 0.05)
    bow_x, bow_y, twist = rng.normal(0, 0.012, 3)
    p = tool.emboss_p * emboss + tool.roll_p * roll + (bow_x * x + twist * y) / WIDTH_PX
    q = tool.emboss_q * emboss + tool.roll_q * roll + (bow_y * y + twist * x) / WIDTH_PX
    texture_p, texture_q, film = _texture(rng)
    return Surface(
        p=(p + texture_p).astype(np.float32),
        q=(q + texture_q).astype(np.float32),
        albedo=film,
        bare=np.zeros_like(film),
        visibility=tool.openness.copy(),
        silhouette=tool.silhouette.copy(),
    )


def slopes(height_mm: Map) -> tuple[Map, Map]:
    """The height field's gradient by central differences: slopes along x and y."""
    kernel = np.array([[-0.5, 0, 0.5]], np.float32) / np.float32(MM_PER_PX)
    p = cv2.filter2D(np.asarray(height_mm, np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    q = cv2.filter2D(np.asarray(height_mm, np.float32), -1, kernel.T.copy(), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(p, np.float32), np.asarray(q, np.float32)


def smooth_noise(rng: np.random.Generator, cell_px: int) -> Map:
    """Smooth noise of unit variance at the nodes, features of about `cell_px`."""
    nodes = rng.standard_normal((HEIGHT_PX // cell_px + 3, WIDTH_PX // cell_px + 3), np.float32)
    return np.asarray(cv2.resize(nodes, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC), np.float32)


def _texture(rng: np.random.Generator) -> tuple[Map, Map, Map]:
    """Brushing along x and rolling grain as slopes; oil film and dust as albedo."""
    noise = rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32)
    long_strokes = cv2.blur(cv2.blur(noise, (91, 1)), (61, 1))
    short_strokes = cv2.blur(noise, (23, 1))
    grain = cv2.GaussianBlur(noise, (0, 0), 1.3)
    strength = rng.normal(1, 0.08)
    q = strength * (0.20 * long_strokes + 0.10 * short_strokes + 0.05 * grain)
    p = strength * 0.05 * cv2.blur(grain, (1, 3))
    film = np.asarray(1 + 0.03 * smooth_noise(rng, 80) + 0.03 * long_strokes, np.float32)
    for _ in range(int(rng.poisson(_DUST_SPECKS))):
        place = (int(rng.integers(WIDTH_PX)), int(rng.integers(HEIGHT_PX)))
        cv2.circle(film, place, 1, float(rng.uniform(0.65, 1.2)), cv2.FILLED)
    return p, q, film


def _circle(x: Map, y: Map, centre_x: float, centre_y: float, radius: float) -> Map:
    return np.asarray(np.hypot(x - centre_x, y - centre_y) - radius, np.float32)


def _capsule(x: Map, y: Map, from_x: float, to_x: float, centre_y: float, half_width: float) -> Map:
    return np.asarray(np.hypot(x - np.clip(x, from_x, to_x), y - centre_y) - half_width, np.float32)


def _rounded_box(x: Map, y: Map) -> Map:
    beyond_x = np.abs(x) - (_OUTLINE_HALF_PX[0] - _CORNER_RADIUS_PX)
    beyond_y = np.abs(y) - (_OUTLINE_HALF_PX[1] - _CORNER_RADIUS_PX)
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
    return np.asarray(outside + np.minimum(np.maximum(beyond_x, beyond_y), 0) - _CORNER_RADIUS_PX, np.float32)


def _step(value: Map) -> Map:
    """Smoothstep: 0 below 0, 1 above 1, no kink between."""
    clipped = np.clip(value, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)
