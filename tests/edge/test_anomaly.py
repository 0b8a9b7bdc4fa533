"""Distances of patches to a memory bank, exact also when small, and the score computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.anomaly import LEAST_DISTANCE, counted_patches, distances_to_rows, folded_rows, score_from_distances


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(1, 40), tiles=st.integers(1, 3))
def test_each_patch_has_the_distance_to_the_row_nearest_in_local_scales(seed: int, rows: int, tiles: int) -> None:
    numbers = np.random.default_rng(seed)
    features = numbers.normal(size=(rows, 5)).astype(np.float32)
    scales = numbers.uniform(0.1, 10, rows).astype(np.float32)
    patches = numbers.normal(size=(tiles, 7, 5)).astype(np.float32)
    expected = (np.linalg.norm(patches[:, :, np.newaxis] - features, axis=-1) / scales).min(axis=-1)
    bank, expected = np.column_stack([features, scales]), np.maximum(expected, LEAST_DISTANCE)
    np.testing.assert_allclose(distances_to_rows(patches, bank), expected, rtol=1e-4)
    queries = np.concatenate([patches, np.square(patches).sum(-1, keepdims=True), np.ones((tiles, 7, 1))], axis=-1)
    squares = -(queries @ folded_rows(bank).T.astype(np.float64)).max(-1)
    np.testing.assert_allclose(np.sqrt(np.maximum(squares, LEAST_DISTANCE**2)), expected, rtol=2e-3)


def test_of_two_equally_far_rows_the_one_with_the_larger_local_scale_counts() -> None:
    rows = np.array([[0, 1], [4, 4]], np.float32)
    assert distances_to_rows(np.array([[2]], np.float32), rows)[0] == pytest.approx(0.5)


def test_small_distances_far_from_the_origin_are_exact() -> None:
    row = np.full((1, 100), 30, np.float32)
    patch = row + np.float32(0.01)
    bank = np.column_stack([row, np.full((1, 1), 2, np.float32)])
    assert distances_to_rows(row, bank)[0] == np.float32(LEAST_DISTANCE)
    assert distances_to_rows(patch, bank)[0] == pytest.approx(np.linalg.norm(patch - row) / 2, rel=1e-6)


def test_without_rows_every_patch_is_infinitely_far() -> None:
    assert np.isinf(distances_to_rows(np.zeros((2, 3, 4), np.float32), np.zeros((0, 5), np.float32))).all()


@pytest.mark.parametrize(("inspected", "counted"), [(1, 1), (32, 1), (33, 2), (64, 2), (400, 13)])
def test_one_patch_in_32_is_counted(inspected: int, counted: int) -> None:
    assert counted_patches(inspected) == counted


def test_the_score_is_the_mean_of_the_farthest_patches() -> None:
    distances = np.array([5, *range(20), 7], np.float32)
    assert score_from_distances(distances, 3) == pytest.approx(18)
    assert score_from_distances(distances, 1) == 19
