"""Fitting the head: two linear discriminants per type, one on patches and one on each photograph's mean patch.

Both are closed forms (Fisher, Annals of Eugenics 7, 1936) with a ridge, so a fit takes a second, is exactly repeatable
and can be redone for every fold. With 50 to 100 defect photographs neither logistic regression nor a hidden layer
scored better in cross-validation by part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge.bundle.manifest import GOOD
from training.features import Sample
from training.model import DefectHead, strongest_places

RIDGE = 0.3
"""Share of each feature's variance that is added to it; chosen by cross-validation by part."""
MIN_COVERAGE = 0.05
"""A patch shows the defect if the mask covers more than this share of it."""
POOLED_PARTS = 30
"""Shrinkage: a type's mean is pooled with the mean over all types as if that had been seen on this many parts."""
SEARCH_ROUNDS, GUESSED_PATCHES = 4, 8
"""Without a mask, how often the patches that show the defect are guessed again, and how many per photograph."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Weighted sums over patches that show no defect: of 1, of x [D] and of x x' [D, D], in float64.

    Sums of separate photographs can be added, so a fold can be left out without a pass over the other photographs.
    """

    weight: float
    total: Tensor
    outer: Tensor

    def __add__(self, other: Scatter) -> Scatter:
        return Scatter(self.weight + other.weight, self.total + other.total, self.outer + other.outer)


@dataclass(frozen=True, slots=True)
class Discriminants:
    """Directions [T, D] and offsets [T] of both scores, per type, in float64; zero for a type without photographs.

    A patch scores `patch` . x + `patch_offset`, a photograph's mean patch `context` . x + `context_offset`.
    """

    patch: Tensor
    patch_offset: Tensor
    context: Tensor
    context_offset: Tensor

    def scores(self, sample: Sample) -> Tensor:
        """A photograph's two scores [2, T]: of the strongest places on the highest tile, and of the mean patch."""
        maps = (sample.patches.double() @ self.patch.t()).reshape(*sample.grid, -1).permute(0, 3, 1, 2)
        strongest = strongest_places(maps).amax(0) + self.patch_offset
        return torch.stack((strongest, self.context @ sample.context.double() + self.context_offset))


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights per type [T]; the logit is `patch` x patch score + `context` x context score + `offset`."""

    patch: Tensor
    context: Tensor
    offset: Tensor

    def logits(self, scores: Tensor) -> Tensor:
        """Logits [n, T] of scores [n, 2, T]."""
        return self.patch * scores[:, 0] + self.context * scores[:, 1] + self.offset


def empty_scatter(size: int) -> Scatter:
    """The scatter of no patches of `size` features."""
    return Scatter(0.0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64))


def scatter_from_samples(samples: Sequence[Sample]) -> Scatter:
    """The weighted scatter: each part of a label has weight 1, shared by its photographs and their clean patches."""
    scatter, samples = empty_scatter(samples[0].patches.shape[1]), _with_mirrored(samples)
    for sample, weight in zip(samples, _weights(samples), strict=True):
        clean = sample.patches[_clean(sample)].float()
        if len(clean):
            share = float(weight) / len(clean)
            scatter += Scatter(float(weight), share * clean.sum(0).double(), share * (clean.t() @ clean).double())
    return scatter


def discriminants(samples: Sequence[Sample], types: Sequence[str], clean: Scatter) -> Discriminants:
    """Fit both discriminants to the samples; `clean` is the scatter of the same samples.

    If a defect photograph has no mask, its defect patches are guessed: at first all, then repeatedly those that score
    highest (multiple-instance learning like MI-SVM, Andrews et al., NIPS 2002).
    """
    samples = _with_mirrored(samples)
    mean = clean.total / clean.weight
    covariance = clean.outer / clean.weight - torch.outer(mean, mean)
    context, context_offset = _context_discriminant(samples, types)
    patch = torch.zeros(len(types), len(mean), dtype=torch.float64)
    masked = all(sample.label == GOOD or sample.coverage is not None for sample in samples)
    for _ in range(1 if masked else 1 + SEARCH_ROUNDS):
        patch = _directions(covariance, _defect_means(samples, types, patch, mean) - mean)
    return Discriminants(patch, -patch @ mean, context, context_offset)


def head_from_discriminants(found: Discriminants, blend: Blend) -> DefectHead:
    """Both discriminants and their blend folded into the head's weights."""
    types, features = found.patch.shape
    head = DefectHead(features, types)
    offset = blend.patch * found.patch_offset + blend.context * found.context_offset + blend.offset
    with torch.no_grad():
        head.patch.weight.copy_((blend.patch[:, None] * found.patch)[:, :, None, None])
        head.context.weight.copy_(blend.context[:, None] * found.context)
        head.bias.copy_(offset[:, None, None])
    return head


def _with_mirrored(samples: Sequence[Sample]) -> list[Sample]:
    return [shown for sample in samples for shown in (sample, sample.mirrored) if shown is not None]


def _weights(samples: Sequence[Sample]) -> Tensor:
    photos_of = Counter((sample.label, sample.part_id) for sample in samples)
    return torch.tensor([1 / photos_of[sample.label, sample.part_id] for sample in samples], dtype=torch.float64)


def _clean(sample: Sample) -> Tensor:
    """Which patches [P] show no defect: all without a mask, because a defect covers little of a photograph."""
    if sample.label == GOOD or sample.coverage is None:
        return torch.ones(len(sample.patches), dtype=torch.bool)
    return sample.coverage == 0


def _directions(covariance: Tensor, differences: Tensor) -> Tensor:
    """The discriminants [T, D] of mean differences [T, D]; a difference of NaN (no photographs) gives zero."""
    variance = covariance.diagonal()
    ridge = RIDGE * variance.clamp(min=max(float(variance.median()) / 1000, 1e-12))
    directions: Tensor = torch.linalg.solve(covariance + ridge.diag(), differences.nan_to_num().t()).t()
    return directions


def _defect_means(samples: Sequence[Sample], types: Sequence[str], patch: Tensor, clean_mean: Tensor) -> Tensor:
    """The mean of each type's defect patches [T, D]; the clean mean for a type without photographs."""
    total = torch.zeros_like(patch)
    weight = torch.zeros(len(types), dtype=torch.float64)
    for sample, share in zip(samples, _weights(samples), strict=True):
        if sample.label in types:
            column = types.index(sample.label)
            total[column] += share * _defect_patches(sample, patch[column]).double().mean(0)
            weight[column] += share
    return torch.where(weight[:, None] > 0, total / weight.clamp(min=1e-12)[:, None], clean_mean)


def _defect_patches(sample: Sample, direction: Tensor) -> Tensor:
    if sample.coverage is not None:
        return sample.patches[sample.coverage > min(MIN_COVERAGE, float(sample.coverage.max()) / 2)]
    if not direction.any():
        return sample.patches
    scores = sample.patches.double() @ direction
    return sample.patches[scores.topk(min(GUESSED_PATCHES, len(scores))).indices]


def _context_discriminant(samples: Sequence[Sample], types: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Directions [T, D] and offsets [T] for mean patches: a type against good photographs, else against other types.

    A photograph's overall look shows whether there is a defect better than which one. So the types' means are shrunk
    towards their common mean, more for types with fewer parts (Efron and Morris, Scientific American 236, 1977).
    """
    contexts, weights = torch.stack([sample.context for sample in samples]).double(), _weights(samples)
    members = {label: torch.tensor([x.label == label for x in samples]) for label in {x.label for x in samples}}
    residuals = contexts.clone()
    for of_label in members.values():
        residuals[of_label] -= _mean(contexts, weights * of_label)
    covariance = (weights[:, None] * residuals).t() @ residuals / weights.sum()
    differences, middles = torch.zeros(2, len(types), contexts.shape[1], dtype=torch.float64)
    means = {name: _mean(contexts, weights * members[name]) for name in types if name in members}
    for column, name in enumerate(types):
        reference = members.get(GOOD, ~members[name] if name in members else None)
        if name in means and reference is not None and reference.any():
            parts = float((weights * members[name]).sum())
            of_all = torch.stack(list(means.values())).mean(0)
            middles[column] = _mean(contexts, weights * reference)
            pooled = (parts * means[name] + POOLED_PARTS * of_all) / (parts + POOLED_PARTS)
            differences[column] = pooled - middles[column]
    directions = _directions(covariance, differences)
    return directions, -(directions * middles).sum(1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return weights @ values / weights.sum()
