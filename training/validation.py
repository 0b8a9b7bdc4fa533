"""Cross-validation by part: every part is scored by a head that was fitted without it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from edge.bundle.manifest import GOOD
from training.features import Sample
from training.head import Blend, Discriminants, Scatter, discriminants, empty_scatter, scatter_from_samples

MAX_FOLDS = 40
"""A type with at most this many parts is tested leave-one-part-out: no fold leaves out two of them."""
BOOTSTRAP_DRAWS = 1000
_HALF_AT_SPREADS = 4.0
"""If a type cannot be cross-validated, its 0.5 lies this many spreads above photographs without it."""
_PLATT_ITERATIONS, _PLATT_PENALTY = 50, 1e-3


class OfPart(Protocol):
    """Any data of a photograph that has its label and its part."""

    @property
    def label(self) -> str:
        """`good` or a defect type."""

    @property
    def part_id(self) -> str:
        """The part that was photographed."""


@dataclass(frozen=True, slots=True)
class PartAuc:
    """The ROC AUC of a type's parts against the others, with a 95 % bootstrap confidence interval over parts."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold scores [n, 2, T]; NaN for a type without photographs in the other folds.

    `fitted` holds the discriminants fitted without each fold, `fold_of` [n] the fold of each photograph; `clean` is the
    scatter of all photographs, which the final fit reuses.
    """

    scores: Tensor
    clean: Scatter
    fold_of: Sequence[int]
    fitted: Mapping[int, Discriminants]


def folds_by_part(samples: Sequence[OfPart], types: Sequence[str], seed: int, most: int = MAX_FOLDS) -> list[int]:
    """Each photograph's fold, at most `most` folds: grouped by part and stratified by label.

    This is stratified leave-one-group-out: a fold has one part of each type, and the good parts are spread evenly.
    """
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    fold_of: dict[str, int] = {}
    labels = {sample.label for sample in samples}
    parts_of = {label: sorted({x.part_id for x in samples if x.label == label}) for label in labels}
    folds = min(most, max(len(parts) for parts in parts_of.values()))
    for label in (*types, GOOD):
        parts = [part for part in parts_of.get(label, []) if part not in fold_of]
        draw.shuffle(parts)
        first = draw.randrange(folds)
        fold_of.update({part: (first + i) % folds for i, part in enumerate(parts)})
    return [fold_of[sample.part_id] for sample in samples]


def out_of_fold(samples: Sequence[Sample], types: Sequence[str], fold_of: Sequence[int], console: Console) -> OutOfFold:
    """Score every photograph with discriminants that were fitted without its part."""
    folds = track(sorted(set(fold_of)), "Preparing cross-validation", console=console)
    scatters = {fold: scatter_from_samples(_of_fold(samples, fold_of, fold)) for fold in folds}
    return out_of_fold_of_some(samples, types, fold_of, scatters, [True] * len(samples), console)


def out_of_fold_of_some(
    samples: Sequence[Sample],
    types: Sequence[str],
    fold_of: Sequence[int],
    scatters: Mapping[int, Scatter],
    used: Sequence[bool],
    console: Console,
) -> OutOfFold:
    """As `out_of_fold`, but fitted only to the samples in `used`, whose scatters are given by fold."""
    scores = torch.full((len(samples), 2, len(types)), torch.nan, dtype=torch.float64)
    nothing, fitted = empty_scatter(samples[0].patches.shape[1]), {}
    for fold in track(sorted(scatters), "Cross-validating by part", console=console):
        shown = [x for x, of, is_used in zip(samples, fold_of, used, strict=True) if is_used and of != fold]
        clean = reduce(add, (scatters[of] for of in scatters if of != fold), nothing)
        if not clean.weight:
            continue
        found = fitted[fold] = discriminants(shown, types, clean)
        left_out = [i for i, of in enumerate(fold_of) if of == fold]
        scores[left_out] = scores_of_unseen(found, shown, [samples[i] for i in left_out], types)
    return OutOfFold(scores, reduce(add, scatters.values()), fold_of, fitted)


def scores_of_unseen(
    found: Discriminants, trained_on: Sequence[OfPart], left_out: Sequence[Sample], types: Sequence[str]
) -> Tensor:
    """Scores [k, 2, T] of the held-out photographs; NaN for a type without training photographs."""
    labels = {sample.label for sample in trained_on}
    known = torch.tensor([name in labels for name in types])
    return torch.where(known, torch.stack([found.scores(sample) for sample in left_out]), torch.nan)


def _of_fold(samples: Sequence[Sample], fold_of: Sequence[int], fold: int) -> list[Sample]:
    return [sample for sample, of in zip(samples, fold_of, strict=True) if of == fold]


def blend_from_scores(scores: Tensor, samples: Sequence[Sample], types: Sequence[str]) -> Blend:
    """Weigh both scores equally, in spreads of photographs without the type, and calibrate sigmoids for equal priors.

    The last step is Platt scaling (1999), on out-of-fold scores [n, 2, T].
    """
    patch, context, offset = torch.ones(3, len(types), dtype=torch.float64)
    has_good = any(sample.label == GOOD for sample in samples)
    for column, name in enumerate(types):
        known = ~torch.isnan(scores[:, 0, column])
        of_type = torch.tensor([sample.label == name for sample in samples])
        reference = torch.tensor([sample.label == GOOD for sample in samples]) if has_good else ~of_type
        patch_scores, context_scores = scores[:, 0, column], scores[:, 1, column]
        patch_spread, context_spread = (
            _spread(patch_scores[known & reference]),
            _spread(context_scores[known & reference]),
        )
        both = patch_scores / patch_spread + context_scores / context_spread
        scale, offset[column] = _balanced(both[known], of_type[known])
        patch[column], context[column] = scale / patch_spread, scale / context_spread
    return Blend(patch, context, offset)


def auc_by_part(scores: Sequence[float], samples: Sequence[Sample], name: str, seed: int) -> PartAuc | None:
    """The AUC of a type's parts against good parts; a part's score is the mean of its photographs' scores.

    Without good photographs the parts of other types are used instead; None without parts on one of the sides.
    """
    wanted = {name}
    others = {GOOD} if any(sample.label == GOOD for sample in samples) else {x.label for x in samples} - wanted
    positives, negatives = _part_means(scores, samples, wanted), _part_means(scores, samples, others)
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


def _part_means(scores: Sequence[float], samples: Sequence[Sample], labels: set[str]) -> NDArray[np.float64]:
    by_part: dict[str, list[float]] = {}
    for score, sample in zip(scores, samples, strict=True):
        if sample.label in labels and np.isfinite(score):
            by_part.setdefault(sample.part_id, []).append(score)
    return np.array([np.mean(of_part) for of_part in by_part.values()])


def _spread(scores: Tensor) -> float:
    """The standard deviation; 1 if it is (nearly) zero or there are too few scores."""
    spread = float(scores.std()) if len(scores) > 1 else 0.0
    return spread if spread > 1e-9 else 1.0


def _balanced(scores: Tensor, target: Tensor) -> tuple[float, float]:
    """Platt scaling: scale, above 0, and offset that make sigmoids of the scores probabilities for equal priors."""
    if not target.any() or target.all():
        center = float(scores.mean()) if len(scores) else 0.0
        return 1.0, -center - _HALF_AT_SPREADS * _spread(scores)
    weights = torch.where(target, 0.5 / target.sum(), 0.5 / (~target).sum())
    middle, spread = float(scores.mean()), _spread(scores)
    log_scale, offset = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=_PLATT_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = log_scale.exp() * (scores - middle) / spread + offset
        entropy = F.binary_cross_entropy_with_logits(fitted, target.double(), weights, reduction="sum")
        total: Tensor = entropy + _PLATT_PENALTY * log_scale.square()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scale = float(log_scale.detach().exp()) / spread
    return scale, float(offset.detach()) - scale * middle
