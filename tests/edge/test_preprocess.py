"""Frames of every kind become the same tensor as in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.errors import ProcunitError
from edge.geometry import MAX_POLYGON_POINTS, MAX_POLYGONS, Geometry, Region, placements
from edge.preprocess import (
    PADDING_U8,
    frame_map_from_tile_maps,
    inspected_patches,
    mask_tiles,
    patches_with_any,
    tensor_from_pixels,
    uninspected_pixels,
)

GREY = Geometry(input_height_px=96, input_width_px=128, channels=1)
BGR = Geometry(input_height_px=96, input_width_px=128, channels=3)
UPPER_LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
fractions = st.floats(0.0, 1.0)
polygons = st.lists(st.tuples(fractions, fractions), min_size=3, max_size=6).map(tuple)


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


def test_a_frame_of_the_input_size_is_unchanged_except_for_the_padding_grey() -> None:
    frame = _ramp(96, 128)
    tile = tensor_from_pixels(frame, GREY)[0, :, :, 0]
    is_grey = frame == PADDING_U8
    np.testing.assert_array_equal(tile[~is_grey], frame[~is_grey])
    assert is_grey.any()
    assert (tile[is_grey] == PADDING_U8 - 1).all()
    assert (frame[is_grey] == PADDING_U8).all(), "the camera's frame is not written to"


def test_a_colour_equals_the_padding_grey_only_if_all_channels_do() -> None:
    frame = np.full((96, 128, 3), PADDING_U8, np.uint8)
    frame[:48, :, 0] = 10
    tile = tensor_from_pixels(frame, BGR)[0]
    assert (tile[:48] == (10, PADDING_U8, PADDING_U8)).all()
    assert (tile[48:] == PADDING_U8 - 1).all()
    assert inspected_patches(tile[None]).all()


@given(
    height_px=st.integers(32, 200),
    width_px=st.integers(32, 200),
    channels=st.sampled_from([1, 3]),
    grey=st.integers(PADDING_U8 - 2, PADDING_U8 + 2),
    grain=st.integers(0, 3),
    ignored=st.lists(polygons, max_size=3).map(tuple),
)
def test_exactly_the_uninspected_patches_are_all_padding_grey(
    height_px: int, width_px: int, channels: int, grey: int, grain: int, ignored: tuple[tuple[tuple[float, float], ...]]
) -> None:
    geometry = BGR.model_copy(update={"channels": channels, "ignored": ignored})
    frame = np.random.default_rng(0).integers(grey, grey + grain + 1, (height_px, width_px), np.uint8)
    try:
        inspected = ~uninspected_pixels(height_px, width_px, geometry)
    except ProcunitError:
        assume(False)
    tiles_u8 = tensor_from_pixels(frame, geometry)
    np.testing.assert_array_equal((tiles_u8 != PADDING_U8).any(axis=3), inspected)
    np.testing.assert_array_equal(inspected_patches(tiles_u8), patches_with_any(inspected))


def test_padding_is_one_constant_whatever_the_frame_shows() -> None:
    tall = tensor_from_pixels(np.full((200, 50), 7, np.uint8), GREY)[0, :, :, 0]
    (p,) = placements(200, 50, GREY)
    assert (tall[:, : p.tile_x_px] == PADDING_U8).all()
    assert (tall[:, p.tile_x_px : p.tile_x_px + p.tile_width_px] == 7).all()
    assert (tall[:, p.tile_x_px + p.tile_width_px :] == PADDING_U8).all()


def test_sixteen_bits_are_scaled_to_eight() -> None:
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
def test_an_unusable_image_is_refused(shape: tuple[int, ...]) -> None:
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


def test_ignored_pixels_are_grey_and_never_in_a_mask() -> None:
    geometry = GREY.model_copy(update={"ignored": (UPPER_LEFT,)})
    frame = np.full((96, 128), 255, np.uint8)
    tile, mask = tensor_from_pixels(frame, geometry)[0, :, :, 0], mask_tiles(frame, geometry)[0]
    assert (tile[:48, :64] == PADDING_U8).all()
    assert (tile[49:] == 255).all()
    assert (tile[:, 65:] == 255).all()
    np.testing.assert_array_equal(mask > 0, tile == 255)


def test_ignored_areas_that_overlap_are_both_ignored() -> None:
    left = ((0.0, 0.0), (0.6, 0.0), (0.6, 1.0), (0.0, 1.0))
    middle = ((0.3, 0.0), (0.8, 0.0), (0.8, 1.0), (0.3, 1.0))
    uninspected = uninspected_pixels(96, 128, GREY.model_copy(update={"ignored": (left, middle)}))[0]
    assert uninspected[:, :102].all()
    assert not uninspected[:, 104:].any()


def test_ignored_areas_are_fractions_of_the_frame_in_every_region() -> None:
    halves = (Region(width=0.5), Region(x=0.5, width=0.5))
    around_the_middle = ((0.4, 0.0), (0.6, 0.0), (0.6, 1.0), (0.4, 1.0))
    geometry = Geometry(input_height_px=64, input_width_px=64, regions=halves, ignored=(around_the_middle,))
    left, right = uninspected_pixels(100, 200, geometry)
    assert not left[:, :50].any()
    assert left[:, 52:].all()
    assert right[:, :12].all()
    assert not right[:, 14:].any()


@given(ignored=polygons, scale=st.integers(2, 9))
def test_a_frame_scaled_down_has_the_same_pixels_ignored(ignored: tuple[tuple[float, float], ...], scale: int) -> None:
    geometry = GREY.model_copy(update={"ignored": (ignored,)})
    try:
        small = uninspected_pixels(96, 128, geometry)
    except ProcunitError:
        assume(False)
    np.testing.assert_array_equal(uninspected_pixels(96 * scale, 128 * scale, geometry), small)


def test_a_region_that_is_wholly_ignored_is_named() -> None:
    regions = (Region(x=0.5, y=0.5, width=0.5, height=0.5), Region(width=0.25, height=0.5))
    geometry = GREY.model_copy(update={"regions": regions, "ignored": (UPPER_LEFT,)})
    with pytest.raises(ProcunitError, match=r"region 2 \(x 0 to 0.25, y 0 to 0.5\) is wholly ignored"):
        tensor_from_pixels(_ramp(96, 128), geometry)


def test_a_map_has_its_lowest_value_where_the_frame_is_ignored() -> None:
    geometry = Geometry(input_height_px=64, input_width_px=64, ignored=(UPPER_LEFT,))
    tile_map = np.full((1, 4, 4), 5, np.float32)
    tile_map[0, 3, 3] = 2
    back = frame_map_from_tile_maps(tile_map, 100, 100, geometry)
    assert (back[:50, :50] == 2).all()
    assert (back[:50, 52:] == 5).all()


@pytest.mark.parametrize(
    "ignored",
    [
        (UPPER_LEFT[:2],),
        (UPPER_LEFT,) * (MAX_POLYGONS + 1),
        (UPPER_LEFT + ((0.1, 0.1),) * MAX_POLYGON_POINTS,),
        (((0.0, 0.0), (1.0, 0.0), (1.0, float("nan"))),),
        (((0.0, 0.0), (1.0, 0.0), (1.0, 1.1)),),
    ],
    ids=["two points", "too many", "too long", "no number", "outside"],
)
def test_the_number_of_polygons_and_points_is_limited(ignored: tuple[tuple[tuple[float, float], ...], ...]) -> None:
    with pytest.raises(ValidationError):
        Geometry(ignored=ignored)


@pytest.mark.parametrize("region", [{"x": 0.6, "width": 0.6}, {"height": 0.0}, {"x": -0.1}])
def test_a_region_outside_the_frame_is_refused(region: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Region(**region)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValidationError, match="grey"):
        Geometry(channels=2)
