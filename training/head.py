"""Fitting the head: one logistic regression a type over patches, with the photograph's mean patch as its context.

It is linear on purpose: with 50 to 100 defect photographs a hidden layer scored no better in cross-validation, and a
linear fit is convex, repeatable and done in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.dataset import GOOD
from edge.errors import ProcunitError
from training.features import Lesson
from training.model import DefectHead

PATCH_PENALTY, CONTEXT_PENALTY = 1e-3, 1e-2
"""Weights of the squared coefficients (ridge); chosen by cross-validation by part."""
MIN_COVERAGE = 0.05
"""A patch shows the defect when its mask covers this share of it."""
DEFECT_PATCHES, CLEAN_PATCHES = 60, 60
"""Patches that are learned from of a photograph, at most."""
SEARCH_ROUNDS, GUESSED_PATCHES = 4, 8
"""Without a mask, how often the patches that show the defect are guessed anew, and how many of a photograph's."""
_ITERATIONS = 80


class _Rows(NamedTuple):
    """Patches [n, D], the contexts [c, D] and which one is each patch's [n], targets and weights [n, T]."""

    patches: Tensor
    contexts: Tensor
    context_of: Tensor
    targets: Tensor
    weights: Tensor


class _Standard(NamedTuple):
    """Mean and spread of each feature [D]; a feature that hardly varies is not blown up."""

    mean: Tensor
    spread: Tensor


def fitted_head(lessons: Sequence[Lesson], types: Sequence[str], seed: int) -> DefectHead:
    """The head that these photographs teach; a type without any keeps logits of 0.

    Where a defect photograph has no mask, its patches are guessed: all at first, then in turns those that the head
    finds strongest (MI-SVM's alternation, Andrews et al., NIPS 2002).

    Raises:
        ProcunitError: nothing shows what a part without a defect looks like.
    """
    head = _head_from_rows(_rows(lessons, types, None, seed))
    if all(lesson.label == GOOD or lesson.coverage is not None for lesson in lessons):
        return head
    for _ in range(SEARCH_ROUNDS):
        head = _head_from_rows(_rows(lessons, types, head, seed))
    return head


@torch.no_grad()
def logits_from_lessons(head: DefectHead, lessons: Sequence[Lesson]) -> Tensor:
    """The head's logits [n, T] of the photographs themselves."""
    grids = (lesson.patches.float().t()[None, :, :, None] for lesson in lessons)
    return torch.cat([head(grid).logits for grid in grids])


def rescaled(head: DefectHead, scale: Tensor, offset: Tensor) -> None:
    """Make every logit and map of the head `scale` [T] x itself + `offset` [T]."""
    with torch.no_grad():
        head.patch.weight.mul_(scale[:, None, None, None])
        head.bias.mul_(scale[:, None, None]).add_(offset[:, None, None])
        head.context.weight.mul_(scale[:, None])


def _rows(lessons: Sequence[Lesson], types: Sequence[str], head: DefectHead | None, seed: int) -> _Rows:
    """Each photograph's patches, drawn so that every photograph and part counts alike."""
    draw = torch.Generator().manual_seed(seed)
    photos_of = Counter((lesson.label, lesson.part_id) for lesson in lessons)
    patches: list[Tensor] = []
    shows: list[Tensor] = []
    weights: list[Tensor] = []
    for lesson in lessons:
        defect, clean = _drawn(lesson, types, head, draw)
        patches.append(lesson.patches[torch.cat((defect, clean))])
        shows.append(torch.arange(len(defect) + len(clean)) < len(defect))
        share = torch.where(shows[-1], 1 / max(len(defect), 1), 1 / max(len(clean), 1))
        weights.append(share / photos_of[lesson.label, lesson.part_id])
    lengths = torch.tensor([len(rows) for rows in patches])
    columns = torch.tensor([types.index(lesson.label) if lesson.label in types else -1 for lesson in lessons])
    target = (columns[:, None] == torch.arange(len(types))).repeat_interleave(lengths, 0) & torch.cat(shows)[:, None]
    targets, weight = target.float(), torch.cat(weights)[:, None]
    return _Rows(
        torch.cat(patches).float(),
        torch.stack([lesson.patches.float().mean(0) for lesson in lessons]),
        torch.arange(len(lessons)).repeat_interleave(lengths),
        targets,
        0.5 * _normalised(weight * targets) + 0.5 * _negatives(weight * (1 - targets)),
    )


def _drawn(
    lesson: Lesson, types: Sequence[str], head: DefectHead | None, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of a photograph's patches that show its defect, and of those that show none."""
    everything = torch.arange(len(lesson.patches))
    if lesson.label == GOOD:
        return everything[:0], _some(everything, CLEAN_PATCHES, draw)
    if lesson.coverage is not None:
        least = min(MIN_COVERAGE, float(lesson.coverage.max()) / 2)
        defect, clean = everything[lesson.coverage > least], everything[lesson.coverage == 0]
        return _some(defect, DEFECT_PATCHES, draw), _some(clean, CLEAN_PATCHES, draw)
    if head is None:
        return everything, everything[:0]
    weight = head.patch.weight.detach()[types.index(lesson.label)].flatten()
    strongest = (lesson.patches.float() @ weight).topk(min(GUESSED_PATCHES, len(everything))).indices
    return strongest, everything[:0]


def _some(indices: Tensor, count: int, draw: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=draw)[:count]]


def _negatives(weights: Tensor) -> Tensor:
    if not (weights.sum(0) > 0).all():
        raise ProcunitError(
            "nothing shows what a part without a defect looks like",
            remedy="Add photographs of good parts, masks, or a second defect type",
        )
    return _normalised(weights)


def _normalised(weights: Tensor) -> Tensor:
    """Each column scaled to a sum of 1; a column of zeros stays."""
    return weights / weights.sum(0).clamp(min=1e-12)


def _head_from_rows(rows: _Rows) -> DefectHead:
    """Minimise the weighted cross-entropy plus ridge, then fold the standardisation into the weights."""
    features, types = rows.patches.shape[1], rows.targets.shape[1]
    patch_standard, context_standard = _standard(rows.patches), _standard(rows.contexts)
    patches = (rows.patches - patch_standard.mean) / patch_standard.spread
    contexts = (rows.contexts - context_standard.mean) / context_standard.spread
    by_patch = torch.zeros(features, types, requires_grad=True)
    by_context = torch.zeros(features, types, requires_grad=True)
    bias = torch.zeros(types, requires_grad=True)
    optimizer = torch.optim.LBFGS([by_patch, by_context, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = patches @ by_patch + (contexts @ by_context).index_select(0, rows.context_of) + bias
        entropy = F.binary_cross_entropy_with_logits(logits, rows.targets, rows.weights, reduction="sum")
        ridge = PATCH_PENALTY * by_patch.square().sum() + CONTEXT_PENALTY * by_context.square().sum()
        total: Tensor = entropy + ridge
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    head = DefectHead(features, types)
    with torch.no_grad():
        patch_weight = (by_patch / patch_standard.spread[:, None]).t()
        context_weight = (by_context / context_standard.spread[:, None]).t()
        head.patch.weight.copy_(patch_weight[:, :, None, None])
        head.context.weight.copy_(context_weight)
        offset = bias - patch_weight @ patch_standard.mean - context_weight @ context_standard.mean
        head.bias.copy_(offset[:, None, None])
    return head


def _standard(values: Tensor) -> _Standard:
    spread = values.std(0, correction=0)
    return _Standard(values.mean(0), spread.clamp(min=max(float(spread.median()) / 20, 1e-6)))
