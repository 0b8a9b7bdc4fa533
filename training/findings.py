"""The results of a training run that its report and the command line show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Photo
from training.validation import PartAuc


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A type's AUC on held-out parts after training on `photos` of its photographs: the mean over random draws."""

    photos: int
    parts: int
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """The training photographs and their cross-validated scores, each from a head fitted without the photograph's part.

    `logits` float64 [n, T] are 0 where a miss and a false alarm weigh the same, NaN if no such head could be fitted;
    `unseen_map` returns a photograph's defect maps float32 [tiles, T, h, w], also logits, by its index in `photos`.
    `accuracy` is None for a type that could not be validated; `curves` hold a type's points by rising `photos`.
    """

    types: tuple[str, ...]
    photos: tuple[Photo, ...]
    logits: NDArray[np.float64]
    accuracy: Mapping[str, PartAuc | None]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    notes: tuple[str, ...]
    unseen_map: Callable[[int], NDArray[np.float32]]
