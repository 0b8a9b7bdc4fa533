"""Image files: the size in the header is looked at before anything is decoded."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ProcunitError
from edge.image_file import pixels_from_bytes, read_image
from edge.image_header import MAX_PIXELS, ImageSizeError, size_from_header

SUFFIXES = (".png", ".jpg", ".bmp", ".tiff", ".webp")


def encoded(suffix: str, height_px: int = 40, width_px: int = 70, channels: int = 1) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height_px, width_px, channels), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_size_in_the_header_is_that_of_the_pixels(suffix: str, channels: int) -> None:
    data = encoded(suffix, channels=channels)
    assert size_from_header(data) == (70, 40)
    assert pixels_from_bytes(data, "a").shape[:2] == (40, 70)


def test_webp_of_each_kind_and_big_endian_tiff_have_their_size() -> None:
    lossless = cv2.imencode(".webp", np.zeros((40, 70, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    alpha = cv2.imencode(".webp", np.full((40, 70, 4), 9, np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    tiff = (
        b"MM\0*"
        + struct.pack(">IH", 8, 2)
        + struct.pack(">HHII", 256, 4, 1, 70)
        + struct.pack(">HHIHH", 257, 3, 1, 40, 0)
    )
    for data in (lossless, alpha, tiff):
        assert size_from_header(data) == (70, 40)


def test_a_png_that_unpacks_to_gigabytes_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A few kilobytes of zeros, compressed: 16 bits, four channels, 11 584 x 11 584 pixels."""
    side_px = 11_584
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(8 * side_px + 1)) for _ in range(64)) + packer.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 16, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(ProcunitError, match="11584 x 11584 px, 134 megapixels; at most 67 are read") as caught:
        read_image(tmp_path / "bomb.png")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.where == str(tmp_path / "bomb.png")
    assert peak_bytes < 10 << 20


SIDE_PX = 9000
HUGE = {
    "png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", SIDE_PX, SIDE_PX),
    "jpeg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc2" + struct.pack(">HBHH", 11, 8, SIDE_PX, SIDE_PX),
    "bmp from top to bottom": b"BM" + bytes(12) + struct.pack("<Iii", 40, SIDE_PX, -SIDE_PX),
    "bmp of OS/2": b"BM" + bytes(12) + struct.pack("<IHH", 12, SIDE_PX, SIDE_PX),
    "tiff": b"II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 256, 4, 1, SIDE_PX, 257, 4, 1, SIDE_PX),
    "webp": b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (SIDE_PX - 1).to_bytes(3, "little") * 2,
    "lossless webp": b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(5) + struct.pack("<I", (SIDE_PX - 1) * 0x4001),
    "simple webp": b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(10) + struct.pack("<HH", SIDE_PX, SIDE_PX),
}


@pytest.mark.parametrize("kind", HUGE)
def test_the_limit_holds_for_every_kind(kind: str) -> None:
    with pytest.raises(ImageSizeError, match="9000 x 9000 px, 81 megapixels; at most 67 are read"):
        size_from_header(HUGE[kind])


OTHERS = (
    b"",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\0\xff\xff\xff\xff",
    b"RIFF",
    b"GIF89a" + bytes(40),
    b"#?RADIANCE\n",
)


@pytest.mark.parametrize("data", [*OTHERS, b"P5\n40 40\n255\n" + bytes(1600)])
def test_other_kinds_and_cut_headers_are_refused(data: bytes) -> None:
    with pytest.raises(ImageSizeError):
        size_from_header(data)
    with pytest.raises(ProcunitError, match="not a readable image"):
        pixels_from_bytes(data, "a")


@given(st.sampled_from(SUFFIXES), st.data())
def test_a_damaged_file_is_read_or_refused(suffix: str, data: st.DataObject) -> None:
    content = bytearray(encoded(suffix))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ProcunitError):
        assert pixels_from_bytes(cut, "a").size <= 4 * MAX_PIXELS
