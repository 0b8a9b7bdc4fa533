"""Learning curves: the accuracy on held-out parts after training on fewer photographs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import rich.console
from rich.progress import track

from edge.bundle.manifest import GOOD
from edge.terminal import Console
from training.features import Sample
from training.findings import CurvePoint
from training.head import Scatter, empty_scatter, scatter_from_samples
from training.validation import auc_by_part, blend_from_scores, folds_by_part, out_of_fold_of_some

COUNTS = (10, 20, 30, 50, 100, 200, 500, 1000)
"""Numbers of photographs of a type; those below its total are used."""
DRAWS, FOLDS = 3, 5
_QUIET = Console(quiet=True)


def learning_curves(
    samples: Sequence[Sample], types: Sequence[str], seed: int, console: rich.console.Console
) -> dict[str, tuple[CurvePoint, ...]]:
    """Each type's points, the last with all its photographs; empty for a type that cannot be cross-validated.

    Whole parts are drawn until they have that many photographs of the type; all good parts are used. The folds are the
    same for all points, so every point is evaluated on the same parts.
    """
    fold_of = folds_by_part(samples, types, seed, FOLDS)
    good = _scatters(samples, fold_of, [sample.label == GOOD for sample in samples])
    most = max((sum(sample.label == name for sample in samples) for name in types), default=0)
    counts = [*(count for count in COUNTS if count < most), most]
    runs = [(count, draw) for count in counts for draw in range(1 if count == most else DRAWS)]
    found: dict[str, dict[int, list[CurvePoint]]] = {name: {} for name in types}
    for count, draw in track(runs, "Learning curves", console=console):
        used = drawn_photos(samples, types, count, random.Random(f"{seed} {count} {draw}"))  # noqa: S311
        defects = _scatters(samples, fold_of, [of and x.label != GOOD for of, x in zip(used, samples, strict=True)])
        scatters = {fold: good[fold] + defects[fold] for fold in good}
        unseen = out_of_fold_of_some(samples, types, fold_of, scatters, used, _QUIET)
        logits = blend_from_scores(unseen.scores, samples, types).logits(unseen.scores)
        for column, name in enumerate(types):
            auc = auc_by_part(logits[:, column].tolist(), samples, name, seed)
            if auc is not None:
                shown = [x for x, of in zip(samples, used, strict=True) if of and x.label == name]
                point = CurvePoint(len(shown), len({x.part_id for x in shown}), auc.auc, auc.low, auc.high)
                found[name].setdefault(count, []).append(point)
    return {name: _rising([draws for _, draws in sorted(of.items())]) for name, of in found.items()}


def drawn_photos(samples: Sequence[Sample], types: Sequence[str], count: int, draw: random.Random) -> list[bool]:
    """Which photographs to train on: all good ones, and of each type whole parts until they have `count`."""
    chosen: set[tuple[str, str]] = set()
    for name in types:
        of_part: dict[str, int] = {}
        for sample in samples:
            if sample.label == name:
                of_part[sample.part_id] = of_part.get(sample.part_id, 0) + 1
        parts, photos = sorted(of_part), 0
        draw.shuffle(parts)
        for part in parts:
            if photos >= count:
                break
            photos += of_part[part]
            chosen.add((name, part))
    return [sample.label == GOOD or (sample.label, sample.part_id) in chosen for sample in samples]


def _scatters(samples: Sequence[Sample], fold_of: Sequence[int], wanted: Sequence[bool]) -> Mapping[int, Scatter]:
    """The scatter of the wanted photographs of each fold."""
    size = samples[0].patches.shape[1]
    scatters = {}
    for fold in sorted(set(fold_of)):
        of_fold = [x for x, of, is_wanted in zip(samples, fold_of, wanted, strict=True) if of == fold and is_wanted]
        scatters[fold] = scatter_from_samples(of_fold) if of_fold else empty_scatter(size)
    return scatters


def _rising(draws_of_counts: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """One point per count, the mean of its draws; counts at which a type has no more photographs are dropped."""
    points = [_mean(draws) for draws in draws_of_counts]
    return (*(p for p, after in pairwise(points) if p.photos < after.photos), *points[-1:])


def _mean(draws: Sequence[CurvePoint]) -> CurvePoint:
    photos, parts, auc, low, high = np.mean([[p.photos, p.parts, p.auc, p.low, p.high] for p in draws], axis=0)
    return CurvePoint(round(photos), round(parts), float(auc), float(low), float(high))
