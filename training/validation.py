"""Cross-validation by part: what the head says of parts that it has never seen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from edge.dataset import GOOD
from training.features import Lesson
from training.head import fitted_head, logits_from_lessons

FOLDS = 5
BOOTSTRAP_DRAWS = 1000
_PLATT_ITERATIONS, _PLATT_PENALTY = 50, 1e-3


@dataclass(frozen=True, slots=True)
class PartAuc:
    """The area under the ROC curve of a type's parts against the others, with a 95 % bootstrap interval over parts."""

    auc: float
    low: float
    high: float


def folds_by_part(lessons: Sequence[Lesson], types: Sequence[str], seed: int) -> list[int]:
    """Each photograph's fold, 0 to `FOLDS` - 1: parts stay whole, every label is dealt out evenly."""
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    fold_of: dict[str, int] = {}
    for label in (*types, GOOD):
        parts = sorted({lesson.part_id for lesson in lessons if lesson.label == label} - set(fold_of))
        draw.shuffle(parts)
        first = draw.randrange(FOLDS)
        fold_of.update({part: (first + place) % FOLDS for place, part in enumerate(parts)})
    return [fold_of[lesson.part_id] for lesson in lessons]


def out_of_fold_logits(lessons: Sequence[Lesson], types: Sequence[str], seed: int, console: Console) -> Tensor:
    """Logits [n, T], each by a head that was fitted without the photograph's fold.

    NaN where a type had no photograph left to learn from.
    """
    folds = folds_by_part(lessons, types, seed)
    logits = torch.full((len(lessons), len(types)), torch.nan)
    for fold in track(sorted(set(folds)), "Cross-validating by part", console=console):
        taught = [lesson for lesson, of in zip(lessons, folds, strict=True) if of != fold]
        held_out = [index for index, of in enumerate(folds) if of == fold]
        if not taught:
            continue
        found = logits_from_lessons(fitted_head(taught, types, seed), [lessons[index] for index in held_out])
        absent = [column for column, name in enumerate(types) if all(lesson.label != name for lesson in taught)]
        found[:, absent] = torch.nan
        logits[held_out] = found
    return logits


def platt(logits: Tensor, lessons: Sequence[Lesson], types: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Scale and offset [T] that make sigmoids of out-of-fold logits balanced probabilities (Platt, 1999).

    The scale stays above 0, so the order of scores does; (1, 0) where a side is missing.
    """
    scale, offset = torch.ones(len(types)), torch.zeros(len(types))
    for column, name in enumerate(types):
        known = ~torch.isnan(logits[:, column])
        target = torch.tensor([lesson.label == name for lesson in lessons])[known]
        if target.any() and not target.all():
            scale[column], offset[column] = _balanced_fit(logits[known, column], target)
    return scale, offset


def auc_by_part(scores: Sequence[float], lessons: Sequence[Lesson], name: str, seed: int) -> PartAuc | None:
    """A type's parts against the good ones, a part's score being the mean of its photographs'.

    Without good photographs the other types' parts stand in; None where a side is missing.
    """
    wanted = {name}
    others = {GOOD} if any(lesson.label == GOOD for lesson in lessons) else {x.label for x in lessons} - wanted
    positives, negatives = _part_means(scores, lessons, wanted), _part_means(scores, lessons, others)
    if not len(positives) or not len(negatives):
        return None
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    draw = np.random.default_rng(seed)
    drawn = [
        wins[draw.integers(len(positives), size=len(positives))][:, draw.integers(len(negatives), size=len(negatives))]
        for _ in range(BOOTSTRAP_DRAWS)
    ]
    low, high = np.percentile([sample.mean() for sample in drawn], (2.5, 97.5))
    return PartAuc(float(wins.mean()), float(low), float(high))


def _part_means(scores: Sequence[float], lessons: Sequence[Lesson], labels: set[str]) -> NDArray[np.float64]:
    by_part: dict[str, list[float]] = {}
    for score, lesson in zip(scores, lessons, strict=True):
        if lesson.label in labels and np.isfinite(score):
            by_part.setdefault(lesson.part_id, []).append(score)
    return np.array([np.mean(of_part) for of_part in by_part.values()])


def _balanced_fit(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    spread = logits.std(correction=0).clamp(min=1e-6)
    centered = (logits - logits.mean()) / spread
    weights = torch.where(target, 0.5 / target.sum(), 0.5 / (~target).sum())
    log_scale, offset = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=_PLATT_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = log_scale.exp() * centered + offset
        total: Tensor = F.binary_cross_entropy_with_logits(fitted, target.float(), weights, reduction="sum")
        total = total + _PLATT_PENALTY * log_scale.square()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scale = log_scale.detach().exp() / spread
    return scale, offset.detach() - scale * logits.mean()
