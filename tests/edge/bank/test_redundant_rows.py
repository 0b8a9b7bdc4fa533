"""The rows that a full bank drops: those that other rows with at least the same local scale can substitute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.anomaly import distances_to_rows
from edge.bank.redundant_rows import coverage_loss, most_redundant

Rows = NDArray[np.float32]
NONE = np.zeros((0, 3), np.float32)


def rows_at(*places: tuple[float, float, float]) -> Rows:
    """Rows of two features and their local scale."""
    return np.array(places, np.float32)


def random_rows(numbers: np.random.Generator, count: int) -> Rows:
    return np.column_stack([numbers.normal(size=(count, 3)), numbers.uniform(0.2, 2, count)]).astype(np.float32)


def loss_of(row: Rows, others: Rows) -> float:
    """The loss by its definition; infinite if no other row has the same local scale."""
    candidates = others[others[:, -1] >= row[-1]]
    losses = np.linalg.norm(candidates[:, :-1] - row[:-1], axis=1) / candidates[:, -1]
    return float(losses.min(initial=np.inf))


def test_of_two_equal_rows_one_is_dropped_and_never_both() -> None:
    base = rows_at((0, 0, 1), (5, 5, 1), (0, 0, 1), (9, 0, 1), (5, 5.1, 1))
    dropped = most_redundant(base, (), NONE, 2)
    assert len({0, 2} & set(dropped)) == len({1, 4} & set(dropped)) == 1


def test_of_two_equal_rows_the_one_with_the_smaller_local_scale_is_dropped() -> None:
    base = rows_at((0, 0, 1), (5, 5, 3), (0, 0, 1.1))
    assert most_redundant(base, (), NONE, 1) == (0,)
    assert most_redundant(base, (0,), NONE, 1) == (0, 2)


def test_the_row_with_the_largest_local_scale_stays_however_near_another_one_is() -> None:
    base = rows_at((0, 0, 1), (0.1, 0, 2), (50, 0, 1))
    assert most_redundant(base, (), NONE, 2) == (0, 2)


def test_a_row_near_an_added_one_is_dropped_and_the_added_one_stays() -> None:
    base = rows_at((0, 0, 1), (5, 5, 1), (9, 0, 1))
    assert most_redundant(base, (), rows_at((9, 0.1, 1)), 1) == (2,)
    assert most_redundant(base, (), rows_at((9, 0.1, 0.9)), 1) != (2,)


def test_dropped_rows_stay_dropped_and_are_no_substitutes() -> None:
    base = rows_at((0, 0, 1), (0, 0.1, 1), (5, 0, 1), (7, 0, 1))
    assert most_redundant(base, (0,), NONE, 1) in ((0, 2), (0, 3))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(5, 30), added=st.integers(0, 4), count=st.integers(0, 3))
def test_each_dropped_row_is_the_one_with_the_least_loss(seed: int, rows: int, added: int, count: int) -> None:
    numbers = np.random.default_rng(seed)
    base, more = random_rows(numbers, rows), random_rows(numbers, added)
    dropped: tuple[int, ...] = ()
    for _ in range(count):
        losses = {
            row: loss_of(base[row], np.concatenate([np.delete(base, [*dropped, row], axis=0), more]))
            for row in range(rows)
            if row not in dropped
        }
        (new,) = set(most_redundant(base, dropped, more, 1)) - set(dropped)
        assert losses[new] == pytest.approx(min(losses.values()), abs=1e-3)
        dropped = tuple(sorted((*dropped, new)))
    assert most_redundant(base, (), more, count) == dropped


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(8, 40), added=st.integers(0, 4), count=st.integers(1, 6))
def test_no_distance_grows_by_more_than_the_loss(seed: int, rows: int, added: int, count: int) -> None:
    numbers = np.random.default_rng(seed)
    base, more = random_rows(numbers, rows), random_rows(numbers, added)
    dropped = most_redundant(base, (), more, count)
    loss = coverage_loss(base, dropped, more)
    patches = np.concatenate([numbers.normal(scale=3, size=(200, 3)), base[:, :-1]]).astype(np.float32)
    before = distances_to_rows(patches, np.concatenate([base, more]))
    after = distances_to_rows(patches, np.concatenate([np.delete(base, dropped, axis=0), more]))
    assert np.isfinite(loss)
    assert (after >= before - 1e-4).all()
    assert (after <= before + loss + 1e-4).all()


def test_the_loss_is_zero_without_dropped_rows_and_infinite_without_a_substitute() -> None:
    base = rows_at((0, 0, 1), (0.1, 0, 2))
    assert coverage_loss(base, (), NONE) == 0
    assert coverage_loss(base, (0,), NONE) == pytest.approx(0.05)
    assert coverage_loss(base, (1,), NONE) == np.inf
