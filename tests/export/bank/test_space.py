"""The space in which patches are compared: its distances, and features that hardly vary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bank.space import FEATURES, STRIDE8_WEIGHT, space_from_patches
from tests.export.textbook import Floats

FINE = 8


def _patches(count: int, size: int, seed: int = 0) -> Floats:
    """Correlated features far from zero, of very different deviations: [count, size]."""
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(count, size)) @ draw.normal(size=(size, size))
    return (50 + mixed * 10 ** draw.uniform(-2, 2, size)).astype(np.float32)


def test_components_are_centred_uncorrelated_and_ordered_by_variance() -> None:
    patches = _patches(3000, 100)
    found = space_from_patches(patches, FINE).apply(patches).astype(np.float64)
    assert found.shape == (3000, FEATURES)
    covariance = found.T @ found / len(found)
    variances = covariance.diagonal()
    assert np.abs(covariance - np.diag(variances)).max() < 1e-4 * variances[0]
    assert (np.diff(variances) <= 0).all()
    assert np.abs(found.mean(0)).max() < 1e-3


@given(size=st.integers(2, FEATURES), fine=st.integers(0, 40), seed=st.integers(0, 100))
def test_distances_equal_those_of_scaled_features_if_all_components_are_kept(size: int, fine: int, seed: int) -> None:
    fine = min(fine, size - 1)
    patches = _patches(200, size, seed)
    space = space_from_patches(patches, fine)
    found = space.apply(patches)
    assert found.shape == (200, size)
    scaled = patches / patches.std(0, dtype=np.float64)
    scaled[:, :fine] *= np.sqrt(STRIDE8_WEIGHT / max(fine, 1))
    scaled[:, fine:] *= np.sqrt(1 / (size - fine))
    floor = np.median(patches.std(0)) / 20
    if (patches.std(0) > floor).all():
        wanted = np.linalg.norm(scaled[::2] - scaled[1::2], axis=1)
        np.testing.assert_allclose(np.linalg.norm(found[::2] - found[1::2], axis=1), wanted, rtol=2e-3)


def test_two_good_patches_are_about_one_apart() -> None:
    patches = _patches(2000, 100)
    found = space_from_patches(patches, FINE).apply(patches)
    assert 0.7 < np.linalg.norm(found[::2] - found[1::2], axis=1).mean() < 2


def test_the_sign_of_a_component_does_not_depend_on_the_order_of_the_patches() -> None:
    patches = _patches(500, 30)
    first, again = (space_from_patches(p, FINE).projection for p in (patches, patches[::-1]))
    np.testing.assert_allclose(first, again, atol=1e-3 * np.abs(first).max())
    gain = np.linalg.norm(first, axis=1, keepdims=True)
    main = first / gain
    assert (main[np.abs(main).argmax(0), np.arange(30)] > 0).all()


def test_a_constant_feature_is_not_amplified() -> None:
    patches = np.random.default_rng(0).normal(5, 1, (500, 20)).astype(np.float32)
    patches[:, 3] = 7
    space = space_from_patches(patches, FINE)
    assert np.isfinite(space.projection).all()
    moved = patches[:1].copy()
    moved[0, 3] += 0.1
    distance = float(np.linalg.norm(space.apply(moved) - space.apply(patches[:1])))
    assert distance <= 1.01 * 20 * 0.1 * np.sqrt(STRIDE8_WEIGHT / FINE), "a deviation of the others' median over 20"


@pytest.mark.parametrize("patches", [np.full((10, 80), 3.0), np.full((1, 80), 3.0), np.zeros((10, 5))])
def test_patches_that_are_all_alike_lie_on_each_other(patches: Floats) -> None:
    space = space_from_patches(patches.astype(np.float32), 2)
    assert np.isfinite(space.projection).all()
    assert np.abs(space.apply(patches.astype(np.float32))).max() < 1e-3
