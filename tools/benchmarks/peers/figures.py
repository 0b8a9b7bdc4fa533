"""From scores and maps to figures per part, in the same way for every contestant.

A good part's score comes from the fold that left it out; a defect part is scored in every fold, and the mean counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.metrics import Values, auc, auc_ci95, escape_rate
from edge.bundle.manifest import GOOD
from tools.benchmarks.peers.photographs import Contest, Fold, Truth, truth_of_photo
from training.data.dataset import Photo

ALL_DEFECTS = "all defects"
FALSE_ALARM_RATES = (0.01, 0.05)


@dataclass(frozen=True, slots=True)
class Scored:
    """`scores` float64 [photographs], `maps` float32 [photographs, H, W] at the input size, and their origin."""

    scores: Values
    maps: NDArray[np.float32]
    bank_rows: int
    ran_on: str
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A contestant in one fold: the score of each photograph by index, and the pixel AUROC."""

    contestant: str
    ran_on: str
    bank_photos: int
    bank_rows: int
    scores: Mapping[int, float]
    pixel_auc: float | None


@dataclass(frozen=True, slots=True)
class Auc:
    """AUROC by part with its 95 % bootstrap interval, each None if there are too few parts."""

    value: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A contestant over all folds; bank sizes and `pixel_auc` are means over the folds."""

    contestant: str
    ran_on: str
    bank_photos: float
    bank_rows: float
    aucs: Mapping[str, Auc]
    pixel_auc: float | None
    escapes: tuple[float | None, ...]


def result_from_scores(name: str, contest: Contest, fold: Fold, bank: Sequence[int], scored: Scored) -> FoldResult:
    """The figures that are kept of a fold, without the maps."""
    photos = contest.dataset.photos
    truths = [truth_of_photo(photos[index], contest.geometry) for index in fold.scored]
    scores = dict(zip(fold.scored, scored.scores.tolist(), strict=True))
    return FoldResult(name, scored.ran_on, len(bank), scored.bank_rows, scores, pixel_auc(scored.maps, truths))


def pixel_auc(maps: NDArray[np.float32], truths: Sequence[Truth]) -> float | None:
    """The exact chance that a defect pixel scores higher than a clean one; a tie counts half.

    Only pixels of parts count, including the clean ones of defect photographs; None if either kind is missing.
    """
    defect, clean = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for anomaly_map, truth in zip(maps, truths, strict=True):
        if truth.defect is not None:
            shown = anomaly_map[truth.window]
            defect.append(shown[truth.defect])
            clean.append(shown[~truth.defect])
    positive = np.sort(np.concatenate(defect))  # sorted queries read memory in order
    negative = np.sort(np.concatenate(clean))
    if not positive.size or not negative.size:
        return None
    below = negative.searchsorted(positive, "left").sum() + negative.searchsorted(positive, "right").sum()
    return float(below / 2 / positive.size / negative.size)


def accuracy_from_results(results: Sequence[FoldResult], photos: Sequence[Photo]) -> Accuracy:
    """One contestant's figures over all folds."""
    good = part_scores(results, photos, {GOOD})
    types = sorted({photo.label for photo in photos} - {GOOD})
    by_type = {name: part_scores(results, photos, {name}) for name in types}
    defects = by_type[ALL_DEFECTS] = part_scores(results, photos, set(types))
    pixel_aucs = [result.pixel_auc for result in results if result.pixel_auc is not None]
    return Accuracy(
        contestant=results[0].contestant,
        ran_on=results[0].ran_on,
        bank_photos=float(np.mean([result.bank_photos for result in results])),
        bank_rows=float(np.mean([result.bank_rows for result in results])),
        aucs={name: Auc(auc(scores, good), auc_ci95(scores, good)) for name, scores in by_type.items()},
        pixel_auc=float(np.mean(pixel_aucs)) if pixel_aucs else None,
        escapes=tuple(escape_rate(good, defects, rate) for rate in FALSE_ALARM_RATES),
    )


def part_scores(results: Sequence[FoldResult], photos: Sequence[Photo], labels: set[str]) -> Values:
    """One score per part, float64 [parts]: the mean over its photographs with such a label, and over folds."""
    parts: dict[str, list[float]] = {}
    for result in results:
        for index, score in result.scores.items():
            if photos[index].label in labels:
                parts.setdefault(photos[index].part_id, []).append(score)
    return np.array([np.mean(scores) for scores in parts.values()], np.float64)
