"""The size of an image file in pixels, read from its header alone, before anything decodes it.

A small file can claim a picture of gigabytes. PNG, JPEG, BMP, TIFF and WebP are known; a file of any other kind, or
with a header that does not say its size, is refused, so that no other decoder of a library sees data from outside.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

MAX_PIXELS = 1 << 26
"""67 megapixels, as of the largest cameras at lines; 0.5 GB at 16 bits and four channels."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3
_TIFF_TAGS = 512


class ImageSizeError(ValueError):
    """The data is no image of a known kind, or has too many pixels; the text says which."""


def size_from_header(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of an image file's content.

    Raises:
        ImageSizeError: it is not PNG, JPEG, BMP, TIFF or WebP, its header is damaged, or it has over `MAX_PIXELS`.
    """
    for starts, reader in _READERS:
        if data.startswith(starts):
            try:
                width_px, height_px = reader(data)
            except (struct.error, IndexError) as error:
                raise ImageSizeError("the header of the image is damaged") from error
            break
    else:
        raise ImageSizeError("not a PNG, JPEG, BMP, TIFF or WebP image")
    if width_px < 1 or height_px < 1:
        raise ImageSizeError("the header of the image is damaged")
    if width_px * height_px > MAX_PIXELS:
        raise ImageSizeError(
            f"{width_px} x {height_px} px, {width_px * height_px / 1e6:.0f} megapixels; "
            f"at most {MAX_PIXELS / 1e6:.0f} are read"
        )
    return width_px, height_px


def _png(data: bytes) -> tuple[int, int]:
    width_px, height_px = struct.unpack_from(">II", data, 16)
    return (width_px, height_px) if data[12:16] == b"IHDR" else (0, 0)


def _jpeg(data: bytes) -> tuple[int, int]:
    """The size in the first frame header; other frames' would be decoded only after it."""
    at = 2
    while True:
        if data[at] != 0xFF:
            return 0, 0
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker in _JPEG_BARE:
            continue
        if marker in _JPEG_SIZES:
            height_px, width_px = struct.unpack_from(">HH", data, at + 3)
            return width_px, height_px
        if marker in (0xD9, 0xDA):
            return 0, 0
        at += struct.unpack_from(">H", data, at)[0]


def _bmp(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width_px, height_px = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return abs(width_px), abs(height_px)  # a negative height means: from top to bottom


def _tiff(data: bytes) -> tuple[int, int]:
    """The size in the first directory, which is the picture that is decoded."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (tags,) = struct.unpack_from(f"{order}H", data, at)
    found = {}
    for number in range(min(tags, _TIFF_TAGS)):
        place = at + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            found[tag] = struct.unpack_from(f"{order}{'H' if kind == _TIFF_SHORT else 'I'}", data, place + 8)[0]
    return found.get(_TIFF_WIDTH, 0), found.get(_TIFF_HEIGHT, 0)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width_px, height_px = struct.unpack_from("<HH", data, 26)
    return (width_px & 0x3FFF, height_px & 0x3FFF) if kind == b"VP8 " else (0, 0)


_READERS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"RIFF", _webp),
)
