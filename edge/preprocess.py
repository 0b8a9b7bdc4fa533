"""Frame to uint8 tensor, from the manifest's geometry alone; the only preprocessing in the project.

Nothing here looks at an image's own statistics, so training, calibration and the device cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge.errors import ProcunitError
from edge.messages import PixelArray

MIN_SIDE_PX = 32
"""Below this a photograph cannot show a defect; it is a bad frame, not a good part."""

PADDING_U8 = 114
"""Grey of what letterboxing leaves free; a constant scored better than mirroring (docs/decisions/0002)."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Region(BaseModel):
    """A rectangle of the frame, in fractions of its width and height; each region becomes one tile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: Fraction = 0.0
    y: Fraction = 0.0
    width: Fraction = 1.0
    height: Fraction = 1.0

    @model_validator(mode="after")
    def _inside(self) -> Region:
        if self.width <= 0 or self.height <= 0 or self.x + self.width > 1.0001 or self.y + self.height > 1.0001:
            raise ValueError("a region must have an area and lie inside the frame (fractions of width and height)")
        return self


class Geometry(BaseModel):
    """How a frame becomes the network's input: regions, each letterboxed onto one tile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_height_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 320
    input_width_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 320
    channels: Annotated[int, Field(ge=1, le=3)] = 1
    regions: Annotated[tuple[Region, ...], Field(min_length=1, max_length=64)] = (Region(),)
    mm_per_px: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _grey_or_bgr(self) -> Geometry:
        if self.channels not in (1, 3):
            raise ValueError("channels is 1 (grey) or 3 (BGR)")
        return self


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one region lies in the frame and where its scaled copy lies on the tile, all in pixels."""

    frame_x_px: int
    frame_y_px: int
    frame_width_px: int
    frame_height_px: int
    tile_x_px: int
    tile_y_px: int
    tile_width_px: int
    tile_height_px: int


def placements(frame_height_px: int, frame_width_px: int, geometry: Geometry) -> tuple[Placement, ...]:
    """One placement a region: letterboxed (aspect ratio kept), centred on the tile."""
    result = []
    for region in geometry.regions:
        x, y = round(region.x * frame_width_px), round(region.y * frame_height_px)
        width = max(1, min(round(region.width * frame_width_px), frame_width_px - x))
        height = max(1, min(round(region.height * frame_height_px), frame_height_px - y))
        scale = min(geometry.input_width_px / width, geometry.input_height_px / height)
        tile_width = min(geometry.input_width_px, max(1, round(width * scale)))
        tile_height = min(geometry.input_height_px, max(1, round(height * scale)))
        result.append(
            Placement(
                x,
                y,
                width,
                height,
                (geometry.input_width_px - tile_width) // 2,
                (geometry.input_height_px - tile_height) // 2,
                tile_width,
                tile_height,
            )
        )
    return tuple(result)


def tensor_from_pixels(pixels: PixelArray, geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C], one tile a region, C grey or BGR.

    Full-scale uint16 is brought to 8 bits, alpha is dropped, grey and colour are converted to what the bundle was
    taught with. What letterboxing leaves free is filled with one constant grey (`PADDING_U8`).

    Raises:
        ProcunitError: the frame is no image, or a side is under 32 px.
    """
    frame_u8 = _channels(_eight_bit(pixels), geometry.channels)
    tiles = [
        _letterboxed(frame_u8, p, geometry, PADDING_U8)
        for p in placements(frame_u8.shape[0], frame_u8.shape[1], geometry)
    ]
    return np.stack(tiles).reshape(len(tiles), geometry.input_height_px, geometry.input_width_px, geometry.channels)


def mask_tiles(mask_u8: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.float32]:
    """A mask [H, W] (over 127 = defect) through the frame's own geometry: float32 [N, H, W] in [0, 1]."""
    binary = np.where(mask_u8 > 127, np.uint8(255), np.uint8(0)).astype(np.uint8)
    tiles = [_letterboxed(binary, p, geometry, 0) for p in placements(binary.shape[0], binary.shape[1], geometry)]
    return (np.stack(tiles) / np.float32(255)).astype(np.float32)


def frame_map_from_tile_maps(
    tile_maps: NDArray[np.float32], frame_height_px: int, frame_width_px: int, geometry: Geometry
) -> NDArray[np.float32]:
    """Maps [N, h, w] of the tiles laid back onto the frame: float32 [H, W], the highest where regions overlap."""
    lowest = np.float32(tile_maps.min()) if tile_maps.size else np.float32(0)
    merged = np.full((frame_height_px, frame_width_px), lowest, np.float32)
    for tile_map, p in zip(tile_maps, placements(frame_height_px, frame_width_px, geometry), strict=True):
        full = cv2.resize(tile_map, (geometry.input_width_px, geometry.input_height_px), interpolation=cv2.INTER_LINEAR)
        inner = full[p.tile_y_px : p.tile_y_px + p.tile_height_px, p.tile_x_px : p.tile_x_px + p.tile_width_px]
        region = cv2.resize(inner, (p.frame_width_px, p.frame_height_px), interpolation=cv2.INTER_LINEAR)
        window = merged[p.frame_y_px : p.frame_y_px + p.frame_height_px, p.frame_x_px : p.frame_x_px + p.frame_width_px]
        np.maximum(window, region, out=window)
    return merged


def _eight_bit(pixels: PixelArray) -> NDArray[np.uint8]:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ProcunitError(f"a frame of shape {pixels.shape} is no grey, BGR or BGRA image")
    height_px, width_px = pixels.shape[:2]
    if min(height_px, width_px) < MIN_SIDE_PX:
        raise ProcunitError(
            f"the image is {width_px} x {height_px} px; the smallest usable side is {MIN_SIDE_PX} px",
            remedy="Photograph the part at a higher resolution or correct the camera's region",
        )
    if pixels.dtype == np.uint16:
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), np.uint8)
    if pixels.dtype != np.uint8:
        raise ProcunitError(f"a frame of type {pixels.dtype} is neither 8 nor 16 bits a channel")
    return pixels.astype(np.uint8, copy=False)


def _channels(frame_u8: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if frame_u8.ndim == 3 and frame_u8.shape[2] == 1:
        frame_u8 = frame_u8[:, :, 0]
    if frame_u8.ndim == 3 and frame_u8.shape[2] == 4:
        frame_u8 = np.ascontiguousarray(frame_u8[:, :, :3])
    if channels == 1 and frame_u8.ndim == 3:
        return np.asarray(cv2.cvtColor(frame_u8, cv2.COLOR_BGR2GRAY), np.uint8)
    if channels == 3 and frame_u8.ndim == 2:
        return np.asarray(cv2.cvtColor(frame_u8, cv2.COLOR_GRAY2BGR), np.uint8)
    return frame_u8


def _letterboxed(frame_u8: NDArray[np.uint8], p: Placement, geometry: Geometry, padding_u8: int) -> NDArray[np.uint8]:
    region = frame_u8[p.frame_y_px : p.frame_y_px + p.frame_height_px, p.frame_x_px : p.frame_x_px + p.frame_width_px]
    if (p.tile_width_px, p.tile_height_px) != (p.frame_width_px, p.frame_height_px):
        shrinking = p.tile_width_px < p.frame_width_px or p.tile_height_px < p.frame_height_px
        interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR_EXACT
        region = np.asarray(
            cv2.resize(region, (p.tile_width_px, p.tile_height_px), interpolation=interpolation), np.uint8
        )
    tile = np.full((geometry.input_height_px, geometry.input_width_px, *region.shape[2:]), padding_u8, np.uint8)
    tile[p.tile_y_px : p.tile_y_px + p.tile_height_px, p.tile_x_px : p.tile_x_px + p.tile_width_px] = region
    return tile
