"""The space that patches are compared in: centred, scaled by good patches, projected to their main directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

FEATURES = 62
"""Directions that are kept. A bank's row, folded for the search, is 64 numbers, which matrix products like."""
FINE_WEIGHT = 0.15
"""How much stride 8 says beside stride 16: the share of variance that it is given (docs/decisions/0018)."""


@dataclass(frozen=True, slots=True)
class PatchSpace:
    """Patches [n, C] become (patches - mean [C]) @ projection [C, D]; distances between good ones are about 1."""

    mean: Matrix
    projection: Matrix

    def apply(self, patches: Matrix) -> Matrix:
        """Patches [n, C] as they are searched for: [n, D]."""
        return np.asarray((patches - self.mean) @ self.projection, np.float32)


def space_from_patches(patches: Matrix, fine: int) -> PatchSpace:
    """The space of good patches [n, C], whose first `fine` features are stride 8's.

    Every feature is divided by its deviation, each stride weighted as a whole, and the principal components with the
    largest variance are kept (Pearson, Phil. Mag. 2, 1901). A feature that hardly varies is not blown up.
    """
    size = patches.shape[1]
    mean = patches.mean(0, dtype=np.float64)
    deviation = patches.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, max(float(np.median(deviation)) / 20, 1e-6))
    shares = np.where(np.arange(size) < fine, FINE_WEIGHT / max(fine, 1), 1 / max(size - fine, 1))
    gain = np.sqrt(shares) / deviation
    scaled = (patches - mean.astype(np.float32)) * gain.astype(np.float32)
    covariance = scaled.T.astype(np.float64) @ scaled / len(scaled)
    _, directions = np.linalg.eigh(covariance)
    main = directions[:, ::-1][:, : min(FEATURES, size)]
    # An eigenvector's sign is the library's whim: the largest component of each is made positive.
    main = main * np.sign(main[np.abs(main).argmax(0), np.arange(main.shape[1])])
    return PatchSpace(mean.astype(np.float32), (gain[:, np.newaxis] * main).astype(np.float32))
