"""What more photographs would buy: the accuracy on unseen parts, had fewer been taught."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.progress import track

from edge.bundle.manifest import GOOD
from training.features import Sample
from training.findings import CurvePoint
from training.head import Scatter, empty_scatter, scatter_from_samples
from training.validation import auc_by_part, blend_from_scores, folds_by_part, out_of_fold_of_some

COUNTS = (10, 20, 30, 50, 100, 200, 500, 1000)
"""Photographs of a type, as far as it has more than that."""
DRAWS, FOLDS = 3, 5
_QUIET = Console(quiet=True)


def learning_curves(
    samples: Sequence[Sample], types: Sequence[str], seed: int, console: Console
) -> dict[str, tuple[CurvePoint, ...]]:
    """Each type's points, the last of them with all its photographs; empty where no part is left out to tell.

    Parts are drawn whole until they have that many photographs of the type; all good parts are taught. Whatever was not
    taught is tested on as well as the fold that is left out, so every point is judged by the same parts.
    """
    fold_of = folds_by_part(samples, types, seed, FOLDS)
    good = _scatters(samples, fold_of, [sample.label == GOOD for sample in samples])
    most = max((sum(sample.label == name for sample in samples) for name in types), default=0)
    counts = [*(count for count in COUNTS if count < most), most]
    runs = [(count, draw) for count in counts for draw in range(1 if count == most else DRAWS)]
    found: dict[str, dict[int, list[CurvePoint]]] = {name: {} for name in types}
    for count, draw in track(runs, "Learning from fewer", console=console):
        taught = drawn_photos(samples, types, count, random.Random(f"{seed} {count} {draw}"))  # noqa: S311
        defects = _scatters(samples, fold_of, [of and x.label != GOOD for of, x in zip(taught, samples, strict=True)])
        scatters = {fold: good[fold] + defects[fold] for fold in good}
        unseen = out_of_fold_of_some(samples, types, fold_of, scatters, taught, _QUIET)
        logits = blend_from_scores(unseen.scores, samples, types).logits(unseen.scores)
        for column, name in enumerate(types):
            auc = auc_by_part(logits[:, column].tolist(), samples, name, seed)
            if auc is not None:
                shown = [x for x, of in zip(samples, taught, strict=True) if of and x.label == name]
                point = CurvePoint(len(shown), len({x.part_id for x in shown}), auc.auc, auc.low, auc.high)
                found[name].setdefault(count, []).append(point)
    return {name: _rising([draws for _, draws in sorted(of.items())]) for name, of in found.items()}


def drawn_photos(samples: Sequence[Sample], types: Sequence[str], count: int, draw: random.Random) -> list[bool]:
    """Which photographs are taught: all good ones, and of each type whole parts until there are `count`."""
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
    """One point a count, the mean of its draws; counts beyond what a type has all teach the same and stand once."""
    points = [_mean(draws) for draws in draws_of_counts]
    return (*(p for p, after in pairwise(points) if p.photos < after.photos), *points[-1:])


def _mean(draws: Sequence[CurvePoint]) -> CurvePoint:
    photos, parts, auc, low, high = np.mean([[p.photos, p.parts, p.auc, p.low, p.high] for p in draws], axis=0)
    return CurvePoint(round(photos), round(parts), float(auc), float(low), float(high))
