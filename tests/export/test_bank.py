"""The coreset against the textbook's algorithm, and its radius against all distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.bank import (
    CHOICE_DIMENSIONS,
    MAX_CANDIDATES,
    candidates_per_photo,
    covering_radius,
    k_center_greedy,
    projected,
)


def _points(count: int, size: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def _textbook(points: NDArray[np.float32], count: int, first: int) -> list[int]:
    """Gonzalez: all distances in float64, the farthest point next."""
    exact = points.astype(np.float64)
    chosen = [first]
    while len(chosen) < count:
        to_chosen = np.linalg.norm(exact[:, None] - exact[chosen], axis=2).min(1)
        chosen.append(int(to_chosen.argmax()))
    return chosen


@given(count=st.integers(2, 60), size=st.integers(1, 20), seed=st.integers(0, 100))
def test_rows_are_the_textbook_s(count: int, size: int, seed: int) -> None:
    points = _points(count, size, seed)
    chosen = list(k_center_greedy(points, count // 2 + 1, seed))
    assert chosen == _textbook(points, count // 2 + 1, chosen[0])


def test_the_same_seed_chooses_the_same_rows() -> None:
    points = _points(500, 8, 0)
    assert list(k_center_greedy(points, 20, 1)) == list(k_center_greedy(points, 20, 1))
    assert list(k_center_greedy(points, 1, 1)) != list(k_center_greedy(points, 1, 2))


def test_equal_points_are_chosen_once() -> None:
    points = np.repeat(_points(5, 8, 0), 40, axis=0)
    assert sorted(np.asarray(list(k_center_greedy(points, 100, 0))) // 40) == [0, 1, 2, 3, 4]


def test_the_radius_is_the_largest_of_all_distances_and_shrinks_with_rows() -> None:
    points = _points(9000, 6, 0)
    chosen = list(k_center_greedy(points, 200, 0))
    radii = [covering_radius(points, points[chosen[:rows]]) for rows in (1, 20, 200)]
    from_first = np.linalg.norm(points.astype(np.float64) - points[chosen[0]], axis=1)
    assert radii[0] == pytest.approx(from_first.max(), abs=1e-4)
    assert radii == sorted(radii, reverse=True)


def test_projection_keeps_distances_about_right() -> None:
    points = _points(300, 500, 0)
    few = projected(points, 0)
    assert few.shape == (300, CHOICE_DIMENSIONS)
    ratio = np.linalg.norm(few[::2] - few[1::2], axis=1) / np.linalg.norm(points[::2] - points[1::2], axis=1)
    assert 0.9 < ratio.mean() < 1.1
    np.testing.assert_array_equal(projected(points[:, :10], 0), points[:, :10])


@given(photos=st.integers(1, 100_000), patches=st.integers(1, 5000))
def test_candidates_are_bounded(photos: int, patches: int) -> None:
    each = candidates_per_photo(photos, patches)
    assert 1 <= each <= patches
    assert each * photos <= max(MAX_CANDIDATES, photos)
