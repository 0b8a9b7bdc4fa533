"""Brightness and sharpness are measured on the inspected pixels only."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from edge.imaging import imaging_from_pixels
from edge.preprocess import tensor_from_pixels

GEOMETRY = Geometry(input_height_px=96, input_width_px=128)
LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))


def grain(seed: int, height_px: int = 96, width_px: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(120, 200, (height_px, width_px), np.uint8)


def test_without_padding_the_whole_tile_is_measured() -> None:
    tile_u8 = tensor_from_pixels(grain(0), GEOMETRY)[0, :, :, 0]
    imaging = imaging_from_pixels(grain(0), GEOMETRY)
    assert imaging.brightness == pytest.approx(tile_u8.mean())
    assert imaging.sharpness == pytest.approx(cv2.Laplacian(tile_u8, cv2.CV_64F).var())


def test_colour_is_measured_in_grey() -> None:
    colour = GEOMETRY.model_copy(update={"channels": 3})
    pixels = np.repeat(grain(0)[:, :, np.newaxis], 3, axis=2)
    assert imaging_from_pixels(pixels, colour) == imaging_from_pixels(grain(0), GEOMETRY)


def test_padding_is_not_measured() -> None:
    imaging = imaging_from_pixels(np.full((96, 40), 200, np.uint8), GEOMETRY)
    assert (imaging.brightness, imaging.sharpness) == (200, 0)


def test_ignored_pixels_and_the_edge_of_their_filling_are_not_measured() -> None:
    geometry = GEOMETRY.model_copy(update={"ignored": (LEFT_HALF,)})
    plain = np.full((96, 128), 200, np.uint8)
    assert (imaging_from_pixels(plain, geometry).brightness, imaging_from_pixels(plain, geometry).sharpness) == (200, 0)
    one, other = grain(1), grain(1)
    other[:, :64] = grain(2)[:, :64] // 4
    assert imaging_from_pixels(one, geometry) == imaging_from_pixels(other, geometry)
    assert imaging_from_pixels(one, geometry).sharpness > 0
    assert imaging_from_pixels(one, GEOMETRY) != imaging_from_pixels(other, GEOMETRY)


def test_each_region_has_equal_weight() -> None:
    pixels = np.full((96, 128), 200, np.uint8)
    pixels[:, 32:] = 100
    regions = (Region(width=0.25), Region(x=0.25, width=0.75))
    assert imaging_from_pixels(pixels, GEOMETRY.model_copy(update={"regions": regions})).brightness == 150


def test_a_region_that_is_wholly_ignored_is_refused() -> None:
    geometry = GEOMETRY.model_copy(update={"regions": (Region(width=0.5),), "ignored": (LEFT_HALF,)})
    with pytest.raises(ProcunitError, match="wholly ignored"):
        imaging_from_pixels(grain(0), geometry)
