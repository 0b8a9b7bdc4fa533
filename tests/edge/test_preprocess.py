"""Frames of every kind become the same tensor that training saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.errors import ProcunitError
from edge.preprocess import (
    PADDING_U8,
    Geometry,
    Region,
    frame_map_from_tile_maps,
    mask_tiles,
    placements,
    tensor_from_pixels,
)

GREY = Geometry(input_height_px=96, input_width_px=128, channels=1)
BGR = Geometry(input_height_px=96, input_width_px=128, channels=3)


def _ramp(height_px: int, width_px: int) -> np.ndarray:
    return np.linspace(0, 255, height_px * width_px).reshape(height_px, width_px).astype(np.uint8)


@given(height_px=st.integers(32, 900), width_px=st.integers(32, 900))
def test_letterbox_keeps_the_aspect_ratio_and_fills_one_side(height_px: int, width_px: int) -> None:
    (p,) = placements(height_px, width_px, GREY)
    assert p.tile_width_px == GREY.input_width_px or p.tile_height_px == GREY.input_height_px
    assert abs(p.tile_width_px / width_px - p.tile_height_px / height_px) <= 1.0 / min(width_px, height_px)
    assert 0 <= p.tile_x_px <= GREY.input_width_px - p.tile_width_px
    assert 0 <= p.tile_y_px <= GREY.input_height_px - p.tile_height_px


@given(height_px=st.integers(32, 300), width_px=st.integers(32, 300), channels=st.sampled_from([1, 3]))
def test_any_frame_becomes_one_tile_of_the_input_size(height_px: int, width_px: int, channels: int) -> None:
    geometry = GREY if channels == 1 else BGR
    tensor_u8 = tensor_from_pixels(_ramp(height_px, width_px), geometry)
    assert tensor_u8.shape == (1, 96, 128, channels)
    assert tensor_u8.dtype == np.uint8
    assert tensor_u8.flags.c_contiguous


def test_a_frame_of_the_input_size_passes_unchanged() -> None:
    frame = _ramp(96, 128)
    np.testing.assert_array_equal(tensor_from_pixels(frame, GREY)[0, :, :, 0], frame)


def test_padding_is_one_constant_whatever_the_frame_shows() -> None:
    tall = tensor_from_pixels(np.full((200, 50), 7, np.uint8), GREY)[0, :, :, 0]
    (p,) = placements(200, 50, GREY)
    assert (tall[:, : p.tile_x_px] == PADDING_U8).all()
    assert (tall[:, p.tile_x_px : p.tile_x_px + p.tile_width_px] == 7).all()
    assert (tall[:, p.tile_x_px + p.tile_width_px :] == PADDING_U8).all()


def test_sixteen_bits_are_brought_to_eight_at_full_scale() -> None:
    frame = _ramp(96, 128)
    sixteen = frame.astype(np.uint16) * 257
    np.testing.assert_array_equal(tensor_from_pixels(sixteen, GREY), tensor_from_pixels(frame, GREY))


def test_alpha_is_dropped_and_grey_equals_grey_as_colour() -> None:
    frame = _ramp(96, 128)
    bgr = np.repeat(frame[:, :, None], 3, axis=2)
    bgra = np.concatenate([bgr, np.zeros((96, 128, 1), np.uint8)], axis=2)
    grey = tensor_from_pixels(frame, GREY)
    for colour in (bgr, bgra, frame[:, :, None]):
        np.testing.assert_array_equal(tensor_from_pixels(colour, GREY), grey)
        np.testing.assert_array_equal(tensor_from_pixels(colour, BGR), np.repeat(grey, 3, axis=3))


@pytest.mark.parametrize("shape", [(31, 100), (100, 31), (100,), (64, 64, 2), (2, 64, 64, 3)])
def test_what_is_no_usable_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ProcunitError):
        tensor_from_pixels(np.zeros(shape, np.uint8), GREY)


def test_floats_are_refused() -> None:
    with pytest.raises(ProcunitError, match="neither 8 nor 16 bits"):
        tensor_from_pixels(np.zeros((64, 64), np.float32), GREY)  # type: ignore[arg-type]


def test_regions_become_tiles_and_their_maps_return_to_the_frame() -> None:
    halves = Geometry(
        input_height_px=64,
        input_width_px=64,
        regions=(Region(width=0.5), Region(x=0.5, width=0.5)),
    )
    frame = np.zeros((100, 200), np.uint8)
    frame[40:60, 150:170] = 255
    tiles = tensor_from_pixels(frame, halves)
    assert tiles.shape == (2, 64, 64, 1)
    assert tiles[0].max() == 0
    assert tiles[1].max() == 255
    back = frame_map_from_tile_maps(tiles[:, :, :, 0].astype(np.float32), 100, 200, halves)
    peak = np.unravel_index(int(back.argmax()), back.shape)
    assert 38 <= peak[0] <= 62
    assert 148 <= peak[1] <= 172
    assert back[:, :100].max() == 0


def test_a_mask_lands_where_the_frame_does() -> None:
    mask = np.zeros((200, 80), np.uint8)
    mask[50:100, 20:60] = 255
    frame_tile = tensor_from_pixels(mask, GREY)[0, :, :, 0]
    tile = mask_tiles(mask, GREY)[0]
    (p,) = placements(200, 80, GREY)
    inner = np.s_[p.tile_y_px : p.tile_y_px + p.tile_height_px, p.tile_x_px : p.tile_x_px + p.tile_width_px]
    np.testing.assert_allclose(tile[inner], frame_tile[inner] / 255, atol=1e-6)
    assert tile.sum() > 0
    assert tile[:, : p.tile_x_px].max() == 0


@pytest.mark.parametrize("region", [{"x": 0.6, "width": 0.6}, {"height": 0.0}, {"x": -0.1}])
def test_a_region_outside_the_frame_is_refused(region: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Region(**region)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValidationError, match="grey"):
        Geometry(channels=2)
