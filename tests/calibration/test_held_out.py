"""Patches of calibration photographs in a bundle: the farthest ones, with scores that err only on the safe side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load as tensors_from_bytes

from calibration.held_out import FarthestPatches, PatchExtractor, held_out_bytes
from edge.anomaly import score_from_distances
from edge.bundle.manifest import (
    COUNTED_KEY,
    DEFECT_COUNTED_KEY,
    DEFECT_DISTANCES_KEY,
    DEFECT_PATCHES_KEY,
    DISTANCES_KEY,
    PATCHES_KEY,
)
from edge.geometry import Geometry, Region
from edge.messages import Scores
from edge.preprocess import inspected_patches, tensor_from_pixels
from tests.support.tiny_bundle import good_image, tiny_patches
from tests.support.tiny_graph import FEATURES, GRID, SIDE_PX, write_tiny_patches_graph

HALF_IGNORED = ((0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (0.5, 0.5))
"""The upper half of the right tile: its patches are fewer, and so are those that make its score."""
TILES = Geometry(
    input_height_px=SIDE_PX,
    input_width_px=SIDE_PX,
    regions=(Region(width=0.5), Region(x=0.5, width=0.5)),
    ignored=(HALF_IGNORED,),
)
PIXELS = np.hstack([good_image(0), good_image(1)])


@pytest.fixture(scope="module")
def patches_of(tmp_path_factory: pytest.TempPathFactory) -> PatchExtractor:
    path = tmp_path_factory.mktemp("graph") / "patches.onnx"
    write_tiny_patches_graph(path)
    return PatchExtractor(path, TILES)


def _scores(seed: int) -> tuple[Scores, list[float]]:
    """Scores with random distances, 0 at patches that are not inspected, and the score of each tile."""
    inspected = inspected_patches(tensor_from_pixels(PIXELS, TILES))
    distances = np.where(inspected, np.random.default_rng(seed).gamma(2.0, 1.0, inspected.shape), 0).astype(np.float32)
    of_tiles = [
        score_from_distances(of_tile[inspected], -(-int(inspected.sum()) // 32))
        for of_tile, inspected in zip(distances, inspected, strict=True)
    ]
    return Scores((), max(of_tiles), np.zeros((2, 0, GRID, GRID), np.float32), distances), of_tiles


@given(seed=st.integers(0, 10_000))
def test_a_good_photograph_keeps_the_farthest_of_all_tiles_and_its_score_is_never_too_low(
    patches_of: PatchExtractor, seed: int
) -> None:
    scores, of_tiles = _scores(seed)
    kept = patches_of.farthest(PIXELS, scores, of_highest_tile=False)
    assert kept.counted == 1, "the right tile has 40 patches or fewer"
    assert kept.patches.shape == (len(kept.distances), FEATURES)
    np.testing.assert_array_equal(kept.distances, np.sort(scores.anomaly_map.ravel())[::-1][: len(kept.distances)])
    assert score_from_distances(kept.distances, kept.counted) >= max(of_tiles) - 1e-6


@given(seed=st.integers(0, 10_000))
def test_a_defect_keeps_its_highest_tile_and_that_tile_s_very_score(patches_of: PatchExtractor, seed: int) -> None:
    scores, of_tiles = _scores(seed)
    kept = patches_of.farthest(PIXELS, scores, of_highest_tile=True)
    assert score_from_distances(kept.distances, kept.counted) == pytest.approx(max(of_tiles), rel=1e-6)
    highest = scores.anomaly_map[int(np.argmax(of_tiles))].ravel()
    np.testing.assert_array_equal(kept.distances, np.sort(highest)[::-1][: len(kept.distances)])


def test_the_patches_kept_are_those_that_the_distances_are_of(patches_of: PatchExtractor) -> None:
    scores, _ = _scores(3)
    kept = patches_of.farthest(PIXELS, scores, of_highest_tile=False)
    places = [int(np.flatnonzero(scores.anomaly_map.ravel() == distance)[0]) for distance in kept.distances]
    ranks = [rank for rank, place in enumerate(places) if place < GRID * GRID]
    assert ranks, "some are of the left tile, where nothing is ignored"
    wanted = tiny_patches(good_image(0))[[places[rank] for rank in ranks]]
    np.testing.assert_allclose(kept.patches[ranks], wanted, atol=1e-6)


def _farthest(count: int, seed: int) -> list[FarthestPatches]:
    draw = np.random.default_rng(seed)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return draw.random(shape, np.float32)

    return [
        FarthestPatches(drawn(4, FEATURES), np.sort(drawn(4))[::-1].copy(), int(draw.integers(1, 4)))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("good", "defects"), [(3, 2), (3, 0), (0, 2)])
def test_the_file_holds_both_kinds_in_their_order(good: int, defects: int) -> None:
    shown = _farthest(good, 0), _farthest(defects, 1)
    tensors = tensors_from_bytes(held_out_bytes(*shown))
    keys = (PATCHES_KEY, DISTANCES_KEY, COUNTED_KEY), (DEFECT_PATCHES_KEY, DEFECT_DISTANCES_KEY, DEFECT_COUNTED_KEY)
    assert set(tensors) == {*keys[0], *keys[1]}
    for names, photographs in zip(keys, shown, strict=True):
        patches, distances, counted = (tensors[name] for name in names)
        assert (patches.shape, distances.shape) == ((len(photographs), 4, FEATURES), (len(photographs), 4))
        assert counted.dtype == np.int32
        for i, photo in enumerate(photographs):
            np.testing.assert_array_equal(patches[i], photo.patches)
            np.testing.assert_array_equal(distances[i], photo.distances)
            assert counted[i] == photo.counted
