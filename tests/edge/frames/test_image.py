"""Frames as files: exact at model resolution, lossless with their record, and as a JPEG within a size limit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import ProcunitError
from edge.frames.image import frame_at_model_resolution, jpeg_from_file, png_from_pixels, record_from_png
from edge.geometry import Geometry, Region, placements
from edge.messages import PixelArray
from edge.preprocess import MIN_SIDE_PX, tensor_from_pixels


@settings(max_examples=60, deadline=None)
@given(
    height_px=st.integers(32, 400),
    width_px=st.integers(32, 400),
    input_px=st.sampled_from([64, 96, 128]),
    channels=st.sampled_from([1, 3]),
    depth=st.sampled_from([None, 3, 4]),
)
def test_the_model_sees_the_same_in_a_frame_at_model_resolution(
    height_px: int, width_px: int, input_px: int, channels: int, depth: int | None
) -> None:
    geometry = Geometry(input_height_px=input_px, input_width_px=input_px + 32, channels=channels)
    pixels = noise(1, height_px, width_px, *([depth] if depth else []))
    small = frame_at_model_resolution(pixels, geometry)
    assert min(small.shape[:2]) >= MIN_SIDE_PX
    assert small.shape[0] <= height_px
    placement = placements(height_px, width_px, geometry)[0]
    if min(placement.tile_height_px, placement.tile_width_px) >= MIN_SIDE_PX:
        np.testing.assert_array_equal(tensor_from_pixels(small, geometry), tensor_from_pixels(pixels, geometry))


def test_no_region_of_a_frame_at_model_resolution_is_smaller_than_its_tile() -> None:
    regions = (Region(x=0.1, y=0.2, width=0.3, height=0.3), Region(x=0.5, width=0.5))
    geometry = Geometry(input_height_px=64, input_width_px=64, regions=regions)
    small = frame_at_model_resolution(noise(1, 600, 800).astype(np.uint16) * 257, geometry)
    assert small.shape == (160, 213)
    assert small.dtype == np.uint8
    for p in placements(*small.shape, geometry):
        assert max(p.frame_width_px, p.frame_height_px) >= 63


def test_a_file_contains_its_record(tmp_path: Path) -> None:
    record: dict[str, object] = {"part_id": "Teil 7 \U0001f600", "type_scores": [0.5, None]}
    path = tmp_path / "frame.png"
    path.write_bytes(png_from_pixels(noise(1, 40, 50), record))
    assert record_from_png(path) == record
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None
    np.testing.assert_array_equal(found, noise(1, 40, 50))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG", bytes(100)])
def test_a_file_without_a_record_has_an_empty_one(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(damage)
    assert record_from_png(path) == {}
    cv2.imwrite(str(path), noise(1, 40, 50))
    assert record_from_png(path) == {}
    png = png_from_pixels(noise(1, 40, 50), {"a": 1})
    path.write_bytes(png.replace(b'{"a"', b'x"a"'))
    assert record_from_png(path) == {}


@pytest.mark.parametrize("max_bytes", [900_000, 60_000, 20_000, 6_000])
def test_a_jpeg_fits_the_limit_and_shows_the_whole_frame(tmp_path: Path, max_bytes: int) -> None:
    jpeg = jpeg_from_file(stored(tmp_path, noise(1, 400, 300)), max_bytes)
    assert jpeg is not None
    assert len(jpeg) <= max_bytes
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(4 / 3, rel=0.02)


def test_a_frame_that_never_fits_gives_no_jpeg(tmp_path: Path) -> None:
    assert jpeg_from_file(stored(tmp_path, noise(1, 400, 300)), 300) is None


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_and_alpha_become_an_ordinary_jpeg(tmp_path: Path, channels: int) -> None:
    pixels = np.full((64, 64, channels), 40_000, np.uint16)
    jpeg = jpeg_from_file(stored(tmp_path, pixels), 100_000)
    assert jpeg is not None
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.shape == (64, 64, 3)
    assert decoded.mean() == pytest.approx(156, abs=2)


def test_a_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    for content in (b"", b"no image"):
        path = tmp_path / "abc-1.reject.png"
        path.write_bytes(content)
        with pytest.raises(ProcunitError, match="not a readable image"):
            jpeg_from_file(path, 1000)


def stored(folder: Path, pixels: PixelArray) -> Path:
    """An image file."""
    path = folder / "abc-1.reject.png"
    assert cv2.imwrite(str(path), pixels)
    return path


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    """Random pixels, which no encoder compresses much."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
