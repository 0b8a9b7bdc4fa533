"""The heatmap highlights the place that the scores come from, over the original frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frames.heatmap import MAP_SIDE_PX, overlay, relevance_from_scores
from edge.frames.image import heatmap_from_file, png_from_pixels, png_with_map, record_from_png
from edge.geometry import Geometry, Region
from edge.messages import Scores

GEOMETRY = Geometry(input_height_px=128, input_width_px=128, regions=(Region(width=0.5), Region(x=0.5, width=0.5)))
HEIGHT_PX, WIDTH_PX = 200, 400


def scores_of(anomaly: NDArray[np.float32], types: int = 2) -> Scores:
    """Scores of two tiles, with a given anomaly map and no defect in the type maps."""
    maps = np.full((2, types, 8, 8), -20, np.float32)
    return Scores((0.1, 0.9)[:types], float(anomaly.max()), maps, anomaly)


def hottest(relevance_u8: NDArray[np.uint8]) -> tuple[float, float]:
    """x and y of the maximum, in fractions of the frame."""
    y, x = np.unravel_index(int(relevance_u8.argmax()), relevance_u8.shape)
    return float(x) / relevance_u8.shape[1], float(y) / relevance_u8.shape[0]


def test_the_map_has_the_frames_shape_and_points_to_the_anomaly() -> None:
    anomaly = np.ones((2, 8, 8), np.float32)
    anomaly[1, 6, 1] = 9
    relevance_u8 = relevance_from_scores(scores_of(anomaly, types=0), HEIGHT_PX, WIDTH_PX, GEOMETRY)
    assert relevance_u8.shape == (MAP_SIDE_PX // 2, MAP_SIDE_PX)
    x, y = hottest(relevance_u8)
    assert abs(x - (0.5 + 0.5 * 1.5 / 8)) < 0.04
    assert abs(y - 6.5 / 8) < 0.08
    assert relevance_u8[:, : MAP_SIDE_PX // 2 - 4].max() == 0


def test_the_strongest_types_map_counts_and_other_types_do_not() -> None:
    scores = scores_of(np.ones((2, 8, 8), np.float32))
    scores.defect_maps[0, 1, 2, 2] = 20
    scores.defect_maps[1, 0, 2, 2] = 20
    x, _ = hottest(relevance_from_scores(scores, HEIGHT_PX, WIDTH_PX, GEOMETRY))
    assert x < 0.5


def test_ignored_areas_and_padding_are_zero_and_do_not_count_as_the_lowest_value() -> None:
    left = ((0.0, 0.0), (0.25, 0.0), (0.25, 1.0), (0.0, 1.0))
    geometry = GEOMETRY.model_copy(update={"ignored": (left,)})
    anomaly = np.full((2, 8, 8), 7, np.float32)
    anomaly[0, :, :4] = 0  # uninspected patches have distance 0
    anomaly[0, 5, 6] = 9
    scores = scores_of(anomaly)
    scores.defect_maps[0, :, :, :4] = 20
    relevance_u8 = relevance_from_scores(scores, HEIGHT_PX, WIDTH_PX, geometry)
    quarter = MAP_SIDE_PX // 4
    assert relevance_u8[:, : quarter + 4].max() == 0, "values of an ignored patch do not reach the part"
    assert np.median(relevance_u8[:, quarter:]) == 0, "usual values on the part are near 0"
    x, y = hottest(relevance_u8)
    assert abs(x - 0.5 * 6.5 / 8) < 0.04
    assert abs(y - 5.5 / 8) < 0.08


def test_scores_that_are_not_finite_still_give_a_map() -> None:
    scores = scores_of(np.full((2, 8, 8), np.nan, np.float32))
    assert relevance_from_scores(scores, HEIGHT_PX, WIDTH_PX, GEOMETRY).max() == 0


def test_a_file_contains_its_map_and_is_the_same_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT_PX, WIDTH_PX), np.uint8)
    relevance_u8 = np.zeros((64, 128), np.uint8)
    relevance_u8[:, :20] = 255
    path = tmp_path / "frame.png"
    path.write_bytes(png_with_map(png_from_pixels(pixels, {"result_id": "abc-1"}), relevance_u8))
    assert np.array_equal(np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)), pixels)
    assert record_from_png(path) == {"result_id": "abc-1"}
    jpeg = heatmap_from_file(path, 1 << 20)
    assert jpeg is not None
    shown = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    assert np.abs(shown.astype(int) - overlay(pixels, relevance_u8)).mean() < 12
    yellow, blue = shown[:, :40].mean((0, 1)), shown[:, 200:].mean((0, 1))
    assert yellow[2] > yellow[0]  # red over blue
    assert blue[0] > blue[2]
    path.write_bytes(png_from_pixels(pixels, {"text": "hmAp"}))
    assert heatmap_from_file(path, 1 << 20) is None
