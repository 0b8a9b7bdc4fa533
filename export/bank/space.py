"""The space in which patches are compared: features centred and scaled by the good patches, then reduced by PCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

FEATURES = 62
"""Principal components that are kept; a bank row, folded for the search, then has 64 numbers: fast matrix products."""
STRIDE8_WEIGHT = 0.15
"""Share of the total variance given to the stride-8 features; the rest is stride 16's (docs/decisions/0018)."""


@dataclass(frozen=True, slots=True)
class PatchSpace:
    """Patches [n, C] become (patches - mean [C]) @ projection [C, D]; distances between good ones are about 1."""

    mean: Matrix
    projection: Matrix

    def apply(self, patches: Matrix) -> Matrix:
        """Project patches [n, C] into this space: [n, D]."""
        return np.asarray((patches - self.mean) @ self.projection, np.float32)


def space_from_patches(patches: Matrix, stride8_features: int) -> PatchSpace:
    """The space of good patches [n, C], whose first `stride8_features` features come from stride 8.

    Every feature is divided by its standard deviation, each stride is weighted as a whole, and the principal components
    with the largest variance are kept (Pearson, Phil. Mag. 2, 1901). The standard deviation has a floor, so that a
    nearly constant feature is not amplified.
    """
    size = patches.shape[1]
    mean = patches.mean(0, dtype=np.float64)
    deviation = patches.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, max(float(np.median(deviation)) / 20, 1e-6))
    stride8_share, stride16_share = STRIDE8_WEIGHT / max(stride8_features, 1), 1 / max(size - stride8_features, 1)
    shares = np.where(np.arange(size) < stride8_features, stride8_share, stride16_share)
    gain = np.sqrt(shares) / deviation
    scaled = (patches - mean.astype(np.float32)) * gain.astype(np.float32)
    covariance = scaled.T.astype(np.float64) @ scaled / len(scaled)
    _, directions = np.linalg.eigh(covariance)
    main = directions[:, ::-1][:, : min(FEATURES, size)]
    # The sign of an eigenvector is arbitrary: make its largest component positive, so that results repeat.
    main = main * np.sign(main[np.abs(main).argmax(0), np.arange(main.shape[1])])
    return PatchSpace(mean.astype(np.float32), (gain[:, np.newaxis] * main).astype(np.float32))
