"""Which rectangles of a frame are inspected, what is ignored in them, and where each lies on its network input tile.

`Region` and `Geometry` are models of the bundle manifest, in fractions of the frame, so that they fit frames of any
resolution. `placements` turns them into pixels. Preprocessing and drawing build on it; this module needs no OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from edge.record import Record

MAX_POLYGONS, MAX_POLYGON_POINTS = 64, 256
MAX_TILE_PIXELS = 1 << 25
"""Pixels of all tiles of a frame together: 32 tiles of 1024 x 1024. More would take gigabytes and seconds per part."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]
Point = tuple[Fraction, Fraction]
"""x and y in fractions of the frame's width and height; (0, 0) is the upper left corner."""
Polygon = Annotated[tuple[Point, ...], Field(min_length=3, max_length=MAX_POLYGON_POINTS)]


class Region(Record):
    """A rectangle of the frame, in fractions of its width and height; each region becomes one tile."""

    x: Fraction = 0.0
    y: Fraction = 0.0
    width: Fraction = 1.0
    height: Fraction = 1.0

    @model_validator(mode="after")
    def _inside(self) -> Region:
        if self.width <= 0 or self.height <= 0 or self.x + self.width > 1.0001 or self.y + self.height > 1.0001:
            raise ValueError("a region must have an area and lie inside the frame (fractions of width and height)")
        return self

    def in_words(self) -> str:
        """Its extent in fractions of the frame, for messages."""
        return f"x {self.x:.3g} to {self.x + self.width:.3g}, y {self.y:.3g} to {self.y + self.height:.3g}"


class Geometry(Record):
    """How a frame becomes network input: each region is letterboxed onto one tile; `ignored` polygons are left out."""

    input_height_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 320
    input_width_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 320
    channels: Annotated[int, Field(ge=1, le=3)] = 1
    regions: Annotated[tuple[Region, ...], Field(min_length=1, max_length=64)] = (Region(),)
    ignored: Annotated[tuple[Polygon, ...], Field(max_length=MAX_POLYGONS)] = ()
    mm_per_px: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None

    @model_validator(mode="after")
    def _grey_or_bgr(self) -> Geometry:
        if self.channels not in (1, 3):
            raise ValueError("channels is 1 (grey) or 3 (BGR)")
        return self

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Geometry:
        pixels = len(self.regions) * self.input_height_px * self.input_width_px
        if pixels > MAX_TILE_PIXELS:
            raise ValueError(
                f"{len(self.regions)} regions of {self.input_width_px} x {self.input_height_px} px are "
                f"{pixels / 1e6:.0f} megapixels; at most {MAX_TILE_PIXELS / 1e6:.0f} are inspected per frame"
            )
        return self


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a region lies in the frame, and where its scaled copy lies on the tile; all in pixels."""

    frame_x_px: int
    frame_y_px: int
    frame_width_px: int
    frame_height_px: int
    tile_x_px: int
    tile_y_px: int
    tile_width_px: int
    tile_height_px: int


def placements(frame_height_px: int, frame_width_px: int, geometry: Geometry) -> tuple[Placement, ...]:
    """One placement per region: letterboxed (aspect ratio kept) and centred on the tile."""
    result = []
    for region in geometry.regions:
        x, y = round(region.x * frame_width_px), round(region.y * frame_height_px)
        width = max(1, min(round(region.width * frame_width_px), frame_width_px - x))
        height = max(1, min(round(region.height * frame_height_px), frame_height_px - y))
        scale = min(geometry.input_width_px / width, geometry.input_height_px / height)
        tile_width = min(geometry.input_width_px, max(1, round(width * scale)))
        tile_height = min(geometry.input_height_px, max(1, round(height * scale)))
        tile_x, tile_y = (geometry.input_width_px - tile_width) // 2, (geometry.input_height_px - tile_height) // 2
        result.append(Placement(x, y, width, height, tile_x, tile_y, tile_width, tile_height))
    return tuple(result)
