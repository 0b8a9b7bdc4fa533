"""Frame to uint8 tensor, from the manifest's geometry alone; the only preprocessing in the project.

Nothing here depends on an image's own statistics, so training, calibration and the device cannot drift apart. Pixels
that are not inspected (letterbox padding and ignored areas) get one grey value that no pixel of a part has
(docs/decisions/0017).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import ProcunitError
from edge.geometry import Geometry, Placement, Polygon, Region, placements
from edge.messages import PixelArray

MIN_SIDE_PX = 32
"""A smaller photograph cannot show a defect: it is a bad frame, not a good part."""

PADDING_U8 = 114
"""Grey value of letterbox padding; a constant scored better than mirroring (docs/decisions/0002)."""

PATCH_PX = 16
"""Side of one patch of a tile; the maps of both scorers have one value per patch."""

_SHARE_GRID_PX = 4096
_SUBPIXEL_BITS = 4
_FARTHEST_SUBPIXEL = 1 << 30
_PADDING_BGR_U8 = np.full(3, PADDING_U8, np.uint8)
_ONE_LEVEL_BGR = np.array((1.0, 1.0, 1.0, 0.0))

Pixel = TypeVar("Pixel", bound=np.generic)


def tensor_from_pixels(pixels: PixelArray, geometry: Geometry) -> NDArray[np.uint8]:
    """Preprocess a frame: uint8 [N, H, W, C], one tile per region, C = 1 (grey) or 3 (BGR).

    Full-scale uint16 is converted to 8 bits, alpha is dropped, grey and colour are converted to the channels the bundle
    was trained with. Padding and ignored pixels get the grey `PADDING_U8`; a pixel of the part that has exactly this
    grey becomes one level darker.

    Raises:
        ProcunitError: the frame is no image, a side is under 32 px, or a region is wholly ignored.
    """
    frame_u8 = frame_u8_from_pixels(pixels, geometry.channels)
    height_px, width_px = frame_u8.shape[:2]
    tiles_u8 = np.full((len(geometry.regions), *_tile_shape(geometry), *frame_u8.shape[2:]), PADDING_U8, np.uint8)
    for tile_u8, p in zip(tiles_u8, placements(height_px, width_px, geometry), strict=True):
        part_u8 = _inner(tile_u8, p)
        part_u8[...] = _scaled(frame_u8, p)
        _keep_padding_grey_free(part_u8)
    if geometry.ignored:
        padding_u8 = np.full(tiles_u8.shape[1:], PADDING_U8, np.uint8)
        for tile_u8, uninspected in zip(tiles_u8, uninspected_pixels(height_px, width_px, geometry), strict=True):
            cv2.copyTo(padding_u8, uninspected.view(np.uint8), tile_u8)
    return tiles_u8.reshape(*tiles_u8.shape[:3], geometry.channels)


def frame_u8_from_pixels(pixels: PixelArray, channels: int) -> NDArray[np.uint8]:
    """The whole frame with 8 bits per channel: [H, W] for one channel, [H, W, 3] BGR for three.

    Raises:
        ProcunitError: the frame is no image, or a side is under 32 px.
    """
    return _channels(_eight_bit(pixels), channels)


@lru_cache(maxsize=8)
def uninspected_pixels(frame_height_px: int, frame_width_px: int, geometry: Geometry) -> NDArray[np.bool_]:
    """Mask [N, H, W], read-only, of tile pixels that are padding or ignored, for frames of this size.

    Raises:
        ProcunitError: a region is wholly ignored.
    """
    uninspected = np.ones((len(geometry.regions), *_tile_shape(geometry)), np.bool_)
    for tile, p in zip(uninspected, placements(frame_height_px, frame_width_px, geometry), strict=True):
        _inner(tile, p)[...] = False
        ignored = _filled(tile.shape, geometry.ignored, frame_height_px, frame_width_px, p)
        np.logical_or(tile, ignored, out=tile)
    for number, (region, tile) in enumerate(zip(geometry.regions, uninspected, strict=True), start=1):
        if tile.all():
            raise ProcunitError(
                f"region {number} ({region.in_words()}) is wholly ignored",
                remedy="Remove the region from the geometry or ignore less of it",
            )
    uninspected.flags.writeable = False
    return uninspected


def inspected_patches(tiles_u8: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask [N, h, w] of the patches of tiles [N, H, W, C] that have at least one inspected pixel."""
    return patches_with_any((tiles_u8 != PADDING_U8).any(axis=3))


def patches_with_any(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask [N, h, w] of the patches that contain at least one pixel set in [N, H, W]."""
    tiles, height_px, width_px = pixels.shape
    patches = pixels.reshape(tiles, height_px // PATCH_PX, PATCH_PX, width_px // PATCH_PX, PATCH_PX)
    return np.asarray(patches.any(axis=(2, 4)), np.bool_)


def ignored_pixels(frame_height_px: int, frame_width_px: int, geometry: Geometry) -> NDArray[np.bool_]:
    """Mask [H, W] of the ignored pixels of a frame."""
    whole = Placement(0, 0, frame_width_px, frame_height_px, 0, 0, frame_width_px, frame_height_px)
    return _filled((frame_height_px, frame_width_px), geometry.ignored, frame_height_px, frame_width_px, whole)


def mask_tiles(mask_u8: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.float32]:
    """A defect mask [H, W] (over 127 = defect) as tiles: float32 [N, H, W] in [0, 1], 0 in padding and ignored areas.

    Raises:
        ProcunitError: a region is wholly ignored.
    """
    binary = np.where(mask_u8 > 127, np.uint8(255), np.uint8(0)).astype(np.uint8)
    height_px, width_px = binary.shape
    tiles_u8 = np.zeros((len(geometry.regions), *_tile_shape(geometry)), np.uint8)
    for tile_u8, p in zip(tiles_u8, placements(height_px, width_px, geometry), strict=True):
        _inner(tile_u8, p)[...] = _scaled(binary, p)
    tiles_u8[uninspected_pixels(height_px, width_px, geometry)] = 0
    return (tiles_u8 / np.float32(255)).astype(np.float32)


def frame_map_from_tile_maps(
    tile_maps: NDArray[np.float32], frame_height_px: int, frame_width_px: int, geometry: Geometry
) -> NDArray[np.float32]:
    """Merge the tiles' maps [N, h, w] into one map of the frame: float32 [H, W], the maximum where regions overlap.

    Pixels that are ignored or in no region get the lowest value.
    """
    lowest = np.float32(tile_maps.min()) if tile_maps.size else np.float32(0)
    merged = np.full((frame_height_px, frame_width_px), lowest, np.float32)
    for tile_map, p in zip(tile_maps, placements(frame_height_px, frame_width_px, geometry), strict=True):
        full = cv2.resize(tile_map, (geometry.input_width_px, geometry.input_height_px), interpolation=cv2.INTER_LINEAR)
        region = cv2.resize(_inner(full, p), (p.frame_width_px, p.frame_height_px), interpolation=cv2.INTER_LINEAR)
        window = _in_frame(merged, p)
        np.maximum(window, region, out=window)
    merged[ignored_pixels(frame_height_px, frame_width_px, geometry)] = lowest
    return merged


def areas_in_words(geometry: Geometry) -> str:
    """Regions and ignored share as one line of text."""
    share = ignored_share(geometry)
    if geometry.regions == (Region(),):
        regions = "the whole frame"
    else:
        listed = "; ".join(f"{number}: {region.in_words()}" for number, region in enumerate(geometry.regions, start=1))
        regions = f"{len(geometry.regions)} region{'s' if len(geometry.regions) > 1 else ''} ({listed})"
    return f"{regions}, {share:.1%} of it ignored" if geometry.ignored else f"{regions}, nothing ignored"


def ignored_share(geometry: Geometry) -> float:
    """Share of the regions' area that is ignored, 0 to 1; independent of the frame's size and shape."""
    if not geometry.ignored:
        return 0.0
    inspected = np.zeros((_SHARE_GRID_PX, _SHARE_GRID_PX), np.bool_)
    for p in placements(*inspected.shape, geometry):
        inspected[p.frame_y_px : p.frame_y_px + p.frame_height_px, p.frame_x_px : p.frame_x_px + p.frame_width_px] = (
            True
        )
    return float(ignored_pixels(*inspected.shape, geometry)[inspected].mean())


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
        raise ProcunitError(f"a frame of type {pixels.dtype} has neither 8 nor 16 bits per channel")
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


def _scaled(frame_u8: NDArray[np.uint8], p: Placement) -> NDArray[np.uint8]:
    """The region cut from a frame, grey or BGR, scaled to its size on the tile."""
    region_u8 = _in_frame(frame_u8, p)
    if (p.tile_width_px, p.tile_height_px) == (p.frame_width_px, p.frame_height_px):
        return region_u8
    shrinking = p.tile_width_px < p.frame_width_px or p.tile_height_px < p.frame_height_px
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR_EXACT
    return np.asarray(cv2.resize(region_u8, (p.tile_width_px, p.tile_height_px), interpolation=interpolation), np.uint8)


def _keep_padding_grey_free(part_u8: NDArray[np.uint8]) -> None:
    """Make pixels that equal the padding grey in all channels one level darker, in place."""
    if part_u8.ndim == 2:
        part_u8 -= part_u8 == PADDING_U8
        return
    is_grey_u8 = cv2.inRange(part_u8, _PADDING_BGR_U8, _PADDING_BGR_U8)
    cv2.subtract(part_u8, _ONE_LEVEL_BGR, dst=part_u8, mask=is_grey_u8)


def _filled(
    shape: tuple[int, ...], polygons: tuple[Polygon, ...], frame_height_px: int, frame_width_px: int, p: Placement
) -> NDArray[np.bool_]:
    """Mask of the pixels of a tile of this shape [H, W] that lie in a polygon or on its outline."""
    filled_u8 = np.zeros(shape, np.uint8)
    # Computed in fractions of the region, so that the same pixels are ignored in a frame that was scaled down.
    start = (p.frame_x_px / frame_width_px, p.frame_y_px / frame_height_px)
    per_region = (frame_width_px / p.frame_width_px, frame_height_px / p.frame_height_px)
    for polygon in polygons:
        points_px = (np.array(polygon) - start) * per_region * (p.tile_width_px, p.tile_height_px)
        points_px += (p.tile_x_px - 0.5, p.tile_y_px - 0.5)  # in OpenCV (0, 0) is the centre of the first pixel
        subpixels = np.rint(points_px * (1 << _SUBPIXEL_BITS)).clip(-_FARTHEST_SUBPIXEL, _FARTHEST_SUBPIXEL)
        cv2.fillPoly(filled_u8, [subpixels.astype(np.int32)], 1.0, shift=_SUBPIXEL_BITS)
    return filled_u8.view(np.bool_)


def _tile_shape(geometry: Geometry) -> tuple[int, int]:
    return geometry.input_height_px, geometry.input_width_px


def _inner(tile: NDArray[Pixel], p: Placement) -> NDArray[Pixel]:
    """View of a tile without its padding."""
    return tile[p.tile_y_px : p.tile_y_px + p.tile_height_px, p.tile_x_px : p.tile_x_px + p.tile_width_px]


def _in_frame(frame: NDArray[Pixel], p: Placement) -> NDArray[Pixel]:
    """View of a frame that is the tile's region."""
    return frame[p.frame_y_px : p.frame_y_px + p.frame_height_px, p.frame_x_px : p.frame_x_px + p.frame_width_px]
