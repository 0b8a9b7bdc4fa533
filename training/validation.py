"""Cross-validation by part: what the head says of parts that it has never seen."""

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
"""A type with as many parts or fewer is tested one part at a time: no fold leaves out two of them."""
BOOTSTRAP_DRAWS = 1000
_HALF_AT_SPREADS = 4.0
"""Where a type has no part left out to tell, its 0.5 lies this many spreads above what shows no defect of it."""
_PLATT_ITERATIONS, _PLATT_PENALTY = 50, 1e-3


class OfPart(Protocol):
    """Anything of a photograph that knows its label and its part."""

    @property
    def label(self) -> str:
        """`good` or a defect type."""

    @property
    def part_id(self) -> str:
        """The part that was photographed."""


@dataclass(frozen=True, slots=True)
class PartAuc:
    """The area under the ROC curve of a type's parts against the others, with a 95 % bootstrap interval over parts."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class OutOfFold:
    """Scores [n, 2, T] of photographs not seen in the fit; NaN where that left a type without photographs.

    `fitted` holds each fold's discriminants, `fold_of` [n] the fold that left a photograph out; `clean` is the scatter
    of all photographs, which the last fit takes over.
    """

    scores: Tensor
    clean: Scatter
    fold_of: Sequence[int]
    fitted: Mapping[int, Discriminants]


def folds_by_part(samples: Sequence[OfPart], types: Sequence[str], seed: int, most: int = MAX_FOLDS) -> list[int]:
    """Each photograph's fold, at most `most`: parts stay whole, every label is dealt out evenly.

    This is leave-one-part-out, stratified: a fold leaves out one part of each type, and as many good ones as it takes.
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
        fold_of.update({part: (first + place) % folds for place, part in enumerate(parts)})
    return [fold_of[sample.part_id] for sample in samples]


def out_of_fold(samples: Sequence[Sample], types: Sequence[str], fold_of: Sequence[int], console: Console) -> OutOfFold:
    """Score every photograph by discriminants that were fitted without its part."""
    folds = track(sorted(set(fold_of)), "Reading what each part teaches", console=console)
    scatters = {fold: scatter_from_samples(_of_fold(samples, fold_of, fold)) for fold in folds}
    return out_of_fold_of_some(samples, types, fold_of, scatters, [True] * len(samples), console)


def out_of_fold_of_some(
    samples: Sequence[Sample],
    types: Sequence[str],
    fold_of: Sequence[int],
    scatters: Mapping[int, Scatter],
    taught: Sequence[bool],
    console: Console,
) -> OutOfFold:
    """As `out_of_fold`, but the fits are to those that are `taught` alone, whose scatters by fold are given."""
    scores = torch.full((len(samples), 2, len(types)), torch.nan, dtype=torch.float64)
    nothing, fitted = empty_scatter(samples[0].patches.shape[1]), {}
    for fold in track(sorted(scatters), "Leaving parts out in turn", console=console):
        shown = [x for x, of, known in zip(samples, fold_of, taught, strict=True) if known and of != fold]
        clean = reduce(add, (scatters[of] for of in scatters if of != fold), nothing)
        if not clean.weight:
            continue
        found = fitted[fold] = discriminants(shown, types, clean)
        left_out = [place for place, of in enumerate(fold_of) if of == fold]
        scores[left_out] = scores_of_unseen(found, shown, [samples[place] for place in left_out], types)
    return OutOfFold(scores, reduce(add, scatters.values()), fold_of, fitted)


def scores_of_unseen(
    found: Discriminants, taught: Sequence[OfPart], left_out: Sequence[Sample], types: Sequence[str]
) -> Tensor:
    """Scores [k, 2, T] of the photographs left out; NaN for a type that none of the taught ones shows."""
    labels = {one.label for one in taught}
    known = torch.tensor([name in labels for name in types])
    return torch.where(known, torch.stack([found.scores(sample) for sample in left_out]), torch.nan)


def _of_fold(samples: Sequence[Sample], fold_of: Sequence[int], fold: int) -> list[Sample]:
    return [sample for sample, of in zip(samples, fold_of, strict=True) if of == fold]


def blend_from_scores(scores: Tensor, samples: Sequence[Sample], types: Sequence[str]) -> Blend:
    """Both scores count alike, in spreads of what shows no defect of the type; sigmoids become balanced probabilities.

    The last step is Platt's (1999), on scores [n, 2, T] out of fold.
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
    """A type's parts against the good ones, a part's score being the mean of its photographs'.

    Without good photographs the other types' parts stand in; None where a side is missing.
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
    """The standard deviation; 1 where there is none to speak of."""
    spread = float(scores.std()) if len(scores) > 1 else 0.0
    return spread if spread > 1e-9 else 1.0


def _balanced(scores: Tensor, target: Tensor) -> tuple[float, float]:
    """Scale, above 0, and offset that make sigmoids of the scores probabilities with both sides counted alike."""
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
