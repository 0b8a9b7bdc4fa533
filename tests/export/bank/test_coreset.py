"""The coreset against the textbook algorithm in float64; the lazy path is also used with few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.bank import coreset
from export.bank.coreset import Coreset, k_center_greedy
from tests.export import textbook
from tests.export.textbook import SINGLE_PRECISION, Floats


def _points(count: int, size: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def _check_is_greedy(points: Floats, wanted: int, found: Coreset) -> None:
    """Every row was the farthest point when it was picked, within single precision; none is picked twice."""
    rows = found.indices.numpy()
    assert len(set(rows.tolist())) == len(rows) <= wanted
    assert textbook.worst_pick(points, rows) <= SINGLE_PRECISION
    radius, largest = textbook.covering_radius(points, points[rows]), float(np.linalg.norm(points, axis=1).max())
    assert abs(found.covering_radius**2 - radius**2) <= SINGLE_PRECISION * largest**2
    if len(rows) < wanted:
        assert found.covering_radius == 0, "fewer rows only where every point coincides with one"


@given(
    distinct=st.integers(1, 60),
    copies=st.integers(1, 3),
    size=st.integers(1, 20),
    count=st.integers(1, 200),
    shift=st.sampled_from([0.0, 10.0]),
    few_farthest=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_every_row_is_the_farthest_point_with_copies_and_a_small_farthest_set(
    distinct: int, copies: int, size: int, count: int, shift: float, few_farthest: int, seed: int
) -> None:
    points = np.tile(_points(distinct, size, seed) + np.float32(shift), (copies, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "_MIN_FARTHEST", few_farthest)
        patch.setattr(coreset, "_FEW_PICKS", 0)  # the set of farthest points stays as small as that
        found = k_center_greedy(torch.from_numpy(points), count, seed)
    _check_is_greedy(points, min(count, len(points)), found)


def test_a_large_set_equals_a_plain_exact_greedy() -> None:
    points = _points(20_000, 32, 0)
    reported: list[int] = []
    found = k_center_greedy(torch.from_numpy(points), 500, 3, reported.append)
    assert len(found.indices) == 500
    assert len(reported) < 50, "far fewer passes over all points than rows"
    _check_is_greedy(points, 500, found)


def test_every_cluster_gets_a_row_before_any_gets_two() -> None:
    clusters = 100 * _points(40, 8, 0)
    points = np.repeat(clusters, 50, axis=0) + _points(2000, 8, 1)
    rows = k_center_greedy(torch.from_numpy(points), 40, 0).indices.numpy()
    assert sorted(rows // 50) == list(range(40))


def test_the_same_seed_picks_the_same_rows() -> None:
    points = torch.from_numpy(_points(5000, 8, 0))
    first, again, other = (k_center_greedy(points, 100, seed).indices for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("count", [5, 6, 1000])
def test_equal_points_are_picked_once(count: int) -> None:
    points = np.repeat(_points(5, 63, 0), 40, axis=0)
    found = k_center_greedy(torch.from_numpy(points), count, 0)
    assert sorted(found.indices.numpy() // 40) == [0, 1, 2, 3, 4]
    assert found.covering_radius == 0


@pytest.mark.parametrize("points", [np.zeros((1, 4)), np.zeros((30, 4)), np.full((30, 4), 1e4)])
def test_one_point_or_copies_of_it_give_one_row(points: Floats) -> None:
    found = k_center_greedy(torch.from_numpy(points.astype(np.float32)), 10, 0)
    assert (len(found.indices), found.covering_radius) == (1, 0.0)


def test_all_points_are_rows_if_more_are_requested() -> None:
    points = _points(3000, 5, 0)
    found = k_center_greedy(torch.from_numpy(points), 4096, 0)
    assert sorted(found.indices.tolist()) == list(range(3000))
    assert found.covering_radius == 0


def test_progress_is_reported_up_to_the_last_row() -> None:
    reported: list[int] = []
    k_center_greedy(torch.from_numpy(_points(5000, 16, 0)), 900, 0, reported.append)
    assert reported == sorted(set(reported))
    assert (reported[0], reported[-1]) == (1, 900)
