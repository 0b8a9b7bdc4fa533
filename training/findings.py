"""What a training run found out about itself, as its report and the command line tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Photo
from training.validation import PartAuc


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A type's accuracy on parts left out, had so many of its photographs been taught: the mean over draws."""

    photos: int
    parts: int
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """The taught photographs and what heads that never saw their parts say of them.

    `logits` float64 [n, T] are 0 at a type's working point in training, NaN where no such head could be fitted;
    `unseen_map` gives a photograph's defect maps float32 [tiles, T, h, w], logits too, by its place in `photos`.
    `accuracy` is None for a type that cannot be told; `curves` hold a type's points by rising number of photographs.
    """

    types: tuple[str, ...]
    photos: tuple[Photo, ...]
    logits: NDArray[np.float64]
    accuracy: Mapping[str, PartAuc | None]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    notes: tuple[str, ...]
    unseen_map: Callable[[int], NDArray[np.float32]]
