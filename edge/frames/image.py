"""Frames as image files: PNG with a record of the decision, at full or at model resolution; JPEG for publishing."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames.heatmap import overlay
from edge.geometry import Geometry, Placement, Region, placements
from edge.image_file import MAX_IMAGE_BYTES, pixels_from_bytes
from edge.messages import PixelArray
from edge.preprocess import MIN_SIDE_PX, frame_u8_from_pixels, tensor_from_pixels
from edge.system.files import bytes_from_file

MIN_JPEG_SIDE_PX = 64
Record = dict[str, object]
"""Data stored in a frame's file for the next training: part, result, verdict, scores, bundle, time; JSON values."""

_JPEG_QUALITIES = (90, 75, 50)
_PNG_COMPRESSION = 1  # nearly as small as the default and several times as fast
_PNG_HEADER_BYTES = 33  # the signature and the chunk IHDR
_KEYWORD = b"procunit\0"
_MAP_CHUNK = b"hmAp"  # a private chunk; image readers ignore it
_PNG_END_BYTES = 12
_MAX_RECORD_BYTES = 1 << 16


def frame_at_model_resolution(pixels: PixelArray, geometry: Geometry) -> NDArray[np.uint8]:
    """The whole frame, 8 bits, in the bundle's channels, scaled so that no region is smaller than the model saw it.

    If the model sees the whole frame as one region, these are exactly the pixels of its tensor without padding, and
    preprocessing them again changes nothing. Ignored areas are kept, as a later bundle may ignore others.

    Raises:
        ProcunitError: the frame is no usable image.
    """
    height_px, width_px = pixels.shape[:2]
    first, *others = placements(height_px, width_px, geometry)
    if geometry.regions == (Region(),) and _is_smaller(first):
        tile = tensor_from_pixels(pixels, geometry.model_copy(update={"ignored": ()}))[0]
        x, y = first.tile_x_px, first.tile_y_px
        frame_u8 = tile[y : y + first.tile_height_px, x : x + first.tile_width_px]
        return np.ascontiguousarray(frame_u8.squeeze())
    frame_u8 = frame_u8_from_pixels(pixels, geometry.channels)
    scales = [p.tile_width_px / p.frame_width_px for p in (first, *others)]
    scale = max(*scales, MIN_SIDE_PX / min(height_px, width_px))
    if scale >= 1:
        return frame_u8
    size = (round(width_px * scale), round(height_px * scale))
    return np.asarray(cv2.resize(frame_u8, size, interpolation=cv2.INTER_AREA), np.uint8)


def png_from_pixels(pixels: PixelArray, record: Record) -> bytes:
    """Encode as PNG (lossless), with the record in a tEXt chunk.

    Raises:
        cv2.error: the pixels are no image.
    """
    png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])[1].tobytes()
    chunk = _chunk(b"tEXt", _KEYWORD + json.dumps(record).encode("ascii"))
    return png[:_PNG_HEADER_BYTES] + chunk + png[_PNG_HEADER_BYTES:]


def png_with_map(png: bytes, relevance_u8: NDArray[np.uint8]) -> bytes:
    """Add the map of `heatmap.relevance_from_scores` to a PNG file, as a private chunk."""
    chunk = _chunk(_MAP_CHUNK, cv2.imencode(".png", relevance_u8)[1].tobytes())
    return png[:-_PNG_END_BYTES] + chunk + png[-_PNG_END_BYTES:]


def record_from_png(path: Path) -> Record:
    """The record in a PNG file; empty if it has none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_PNG_HEADER_BYTES + 8 + len(_KEYWORD))
        if not head.endswith(b"tEXt" + _KEYWORD):
            return {}
        (length,) = struct.unpack(">I", head[_PNG_HEADER_BYTES : _PNG_HEADER_BYTES + 4])
        text = stream.read(min(length, _MAX_RECORD_BYTES) - len(_KEYWORD))
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def jpeg_from_file(path: Path, max_bytes: int) -> bytes | None:
    """An image file as a JPEG of 8 bits; lower quality, then smaller, until it fits `max_bytes`. None if it never fits.

    Raises:
        ProcunitError: the file cannot be read, or is no image.
    """
    return _jpeg_or_none(_decoded(bytes_from_file(path, MAX_IMAGE_BYTES), path), max_bytes)


def heatmap_from_file(path: Path, max_bytes: int) -> bytes | None:
    """The frame with its map drawn over it, as `jpeg_from_file`; None also if the file has no map.

    Raises:
        ProcunitError: the file cannot be read, or is no image.
    """
    data = bytes_from_file(path, MAX_IMAGE_BYTES)
    encoded_map = _map_chunk(data)
    if encoded_map is None:
        return None
    relevance_u8 = _decoded(encoded_map, path)
    return _jpeg_or_none(overlay(_decoded(data, path), relevance_u8), max_bytes)


def jpeg_within(pixels: NDArray[np.uint8], max_bytes: int, qualities: Sequence[int], min_side_px: int) -> bytes:
    """The first JPEG that fits, at falling qualities and then halved down to `min_side_px`; else the smallest one."""
    for quality in qualities:
        jpeg = _jpeg(pixels, quality)
        if len(jpeg) <= max_bytes:
            return jpeg
    while len(jpeg) > max_bytes and min(pixels.shape[:2]) >= 2 * min_side_px:
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = np.asarray(cv2.resize(pixels, half, interpolation=cv2.INTER_AREA), np.uint8)
        jpeg = _jpeg(pixels, qualities[-1])
    return jpeg


def _map_chunk(png: bytes) -> bytes | None:
    """The content of the map chunk, or None."""
    start = _PNG_HEADER_BYTES
    while start + _PNG_END_BYTES <= len(png):
        length, kind = struct.unpack(">I4s", png[start : start + 8])
        if kind == _MAP_CHUNK:
            return png[start + 8 : start + 8 + length]
        start += length + 12
    return None


def _decoded(data: bytes, path: Path) -> NDArray[np.uint8]:
    return np.asarray(pixels_from_bytes(data, str(path), cv2.IMREAD_ANYCOLOR), np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _jpeg_or_none(pixels: NDArray[np.uint8], max_bytes: int) -> bytes | None:
    jpeg = jpeg_within(pixels, max_bytes, _JPEG_QUALITIES, MIN_JPEG_SIDE_PX)
    return jpeg if len(jpeg) <= max_bytes else None


def _is_smaller(p: Placement) -> bool:
    return p.tile_width_px < p.frame_width_px and min(p.tile_width_px, p.tile_height_px) >= MIN_SIDE_PX


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
