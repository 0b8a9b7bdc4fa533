"""`make drill-learning DATA=DIR`: what each way of learning gives on parts left out, as Markdown on stdout.

Every method is fitted without the part that it judges. Photographs of a type are cut down to 15 and 30 by whole parts;
parts that were cut are judged, too. Parts that look like one under several ids are joined first, as `procunit train`
suggests; the last table shows what the ids as given, and photographs instead of parts, would have claimed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import nn

from calibration.metrics import auc
from edge.bundle.manifest import GOOD
from edge.geometry import Geometry
from training.data.dataset import dataset_from_path
from training.data.dataset_yaml import dataset_file_from_folder
from training.features import Sample
from training.finetune import Views, fine_tuned, sample_from_views, samples_from_views, tuned_stages, views_of_photos
from training.head import Discriminants, discriminants, head_from_discriminants, scatter_from_samples
from training.learning_curve import drawn_photos
from training.model import InspectionModel, device_to_learn_on, each_on_one_core
from training.near_duplicates import joined_parts, near_duplicates
from training.validation import blend_from_scores, folds_by_part
from training.weights import STAND_IN, trunk_weights

COUNTS = (15, 30, None)
SEEDS, FOLDS = (0, 1, 2), 10
TUNED_SEEDS, TUNED_FOLDS = (0,), 5
"""Fine-tuning: on two cores each fold takes minutes."""
BOOTSTRAP_DRAWS = 2000
FALSE_ALARMS = (0.01, 0.05)

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[int], Sequence[int], int], torch.Tensor]
"""Scores [k, 2, T] of the photographs left out (second) by a fit to the taught ones (first); the fold is last."""


@dataclass(frozen=True)
class Judged:
    """Logits [n, T] of every photograph by fits that never saw its part, its label and its part."""

    logits: Floats
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    types: tuple[str, ...]

    def part_scores(self, label: str, column: int | None) -> Floats:
        """The mean logit of each part of a label: of one type, or of the highest type."""
        values = self.logits.max(1) if column is None else self.logits[:, column]
        defective = {part for part, of in zip(self.parts, self.labels, strict=True) if of != GOOD}
        by_part: dict[str, list[float]] = {}
        for value, of, part in zip(values, self.labels, self.parts, strict=True):
            if of == label and (label != GOOD or part not in defective):
                by_part.setdefault(part, []).append(value)
        return np.array([np.mean(by_part[part]) for part in sorted(by_part)])

    def agreement(self, false_alarms: float) -> float:
        """The share of parts with several photographs that all get the same answer; NaN where none has several."""
        limit, highest = np.quantile(self.part_scores(GOOD, None), 1 - false_alarms), self.logits.max(1)
        answers: dict[tuple[str, str], set[bool]] = {}
        counts: dict[tuple[str, str], int] = {}
        for value, of, part in zip(highest, self.labels, self.parts, strict=True):
            answers.setdefault((of, part), set()).add(bool(value > limit))
            counts[of, part] = counts.get((of, part), 0) + 1
        several = [key for key, count in counts.items() if count > 1]
        return float(np.mean([len(answers[key]) == 1 for key in several])) if several else float("nan")


def drawn_means(judged: Sequence[Judged], draws: int) -> Floats:
    """The mean AUC over types of bootstrapped parts [draws], the seeds' mean; alike drawn for every method."""
    rng = np.random.default_rng(0)
    first = judged[0]
    good = len(first.part_scores(GOOD, 0))
    places = [
        [rng.integers(n, size=n) for n in (good, *(len(first.part_scores(t, 0)) for t in first.types))]
        for _ in range(draws)
    ]
    means = np.zeros(draws)
    for one in judged:
        scores = [(one.part_scores(t, i), one.part_scores(GOOD, i)) for i, t in enumerate(one.types)]
        for draw, (of_good, *of_types) in enumerate(places):
            means[draw] += np.mean([auc(p[of], n[of_good]) for (p, n), of in zip(scores, of_types, strict=True)])
    return means / len(judged)


def scores_by(
    fit: Fit,
    lessons: Sequence[Sample],
    types: tuple[str, ...],
    count: int | None,
    seed: int,
    folds_at_most: int = FOLDS,
) -> torch.Tensor:
    """Scores [n, 2, T] of all photographs, each by a fit without its part."""
    fold_of = folds_by_part(lessons, types, seed, folds_at_most)
    taught = [True] * len(lessons)
    if count is not None:
        taught = drawn_photos(lessons, types, count, random.Random(f"{seed} {count}"))  # noqa: S311
    scores = torch.full((len(lessons), 2, len(types)), torch.nan, dtype=torch.float64)
    folds = sorted(set(fold_of))
    left_out = [[i for i, of in enumerate(fold_of) if of == fold] for fold in folds]
    rest = [[i for i, of in enumerate(fold_of) if of != fold and taught[i]] for fold in folds]
    found = each_on_one_core(
        lambda fold: fit(rest[fold], left_out[fold], fold), range(len(folds)), "Leaving parts out", Console(stderr=True)
    )
    for places, of_fold in zip(left_out, found, strict=True):
        scores[places] = of_fold
    return scores


def judged_from_scores(
    scores: torch.Tensor, lessons: Sequence[Sample], types: tuple[str, ...], use: tuple[bool, bool] = (True, True)
) -> Judged:
    """Both scores blended as a run does; `use` says whether patches and the mean patch count."""
    blend = blend_from_scores(scores, lessons, types)
    blend = replace(blend, patch=blend.patch * use[0], context=blend.context * use[1])
    return Judged(
        blend.logits(scores).numpy(), tuple(x.label for x in lessons), tuple(x.part_id for x in lessons), types
    )


def fit_of_head(lessons: Sequence[Sample], types: Sequence[str]) -> Fit:
    """The closed form on the features of the pretrained network."""

    def fit(taught: Sequence[int], left_out: Sequence[int], _: int) -> torch.Tensor:
        found = _found([lessons[i] for i in taught], types)
        return torch.stack([found.scores(lessons[i]) for i in left_out])

    return fit


def fit_of_tuned(stages: nn.ModuleList, views: Sequence[Views], lessons: Sequence[Sample], types: Sequence[str]) -> Fit:
    """The same on features whose last stages are tuned to the taught photographs."""

    def fit(taught: Sequence[int], left_out: Sequence[int], fold: int) -> torch.Tensor:
        start = [lessons[i] for i in taught]
        untuned = _found(start, types)
        scores = torch.stack([untuned.scores(x) for x in start])
        head = head_from_discriminants(untuned, blend_from_scores(scores, start, types))
        tuned = fine_tuned(stages, [views[i] for i in taught], types, head, fold, Progress(disable=True))
        found = _found([sample_from_views(tuned, views[i]) for i in taught], types)
        return torch.stack([found.scores(sample_from_views(tuned, views[i])) for i in left_out])

    return fit


def _found(lessons: Sequence[Sample], types: Sequence[str]) -> Discriminants:
    return discriminants(lessons, types, scatter_from_samples(lessons))


def row(name: str, judged: Sequence[Judged], reference: Floats | None) -> tuple[str, Floats]:
    """A line of the table, and the bootstrapped means that others are compared with."""
    draws = drawn_means(judged, BOOTSTRAP_DRAWS)
    types = judged[0].types
    means = [np.mean([auc(x.part_scores(t, i), x.part_scores(GOOD, i)) for x in judged]) for i, t in enumerate(types)]
    low, high = np.percentile(draws, (2.5, 97.5))
    cells = [f"{np.mean(means):.3f} ({low:.2f} to {high:.2f})", *(f"{mean:.3f}" for mean in means)]
    escapes = [np.mean([_escapes(x, rate) for x in judged]) for rate in FALSE_ALARMS]
    cells += [" / ".join(f"{100 * x:.0f} %" for x in escapes)]
    agreement = float(np.mean([x.agreement(FALSE_ALARMS[1]) for x in judged]))
    cells += ["-" if np.isnan(agreement) else f"{100 * agreement:.0f} %"]
    if reference is None:
        cells.append("-")
    else:
        low, high = np.percentile(draws - reference, (2.5, 97.5))
        cells.append(f"{np.mean(draws - reference):+.3f} ({low:+.3f} to {high:+.3f})")
    return f"| {name} | {' | '.join(cells)} |", draws


def _escapes(judged: Judged, false_alarms: float) -> float:
    limit = np.quantile(judged.part_scores(GOOD, None), 1 - false_alarms)
    return float(np.mean(np.concatenate([judged.part_scores(t, None) for t in judged.types]) <= limit))


def head_line(types: Sequence[str]) -> str:
    """The table's first two lines."""
    columns = ["", "mean over types", *types, "escapes at 1 / 5 %", "agreement", "against the head"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of good/ and one folder a type.")
@click.option("--input-px", default=384, show_default=True, help="Side of the input.")
@click.option("--tuned/--no-tuned", default=True, help="Fine-tune, too: an hour on two cores, minutes on a GPU.")
def learning_table(data: Path, input_px: int, tuned: bool) -> None:
    """Compare the ways of learning on parts left out."""
    console = Console(stderr=True)
    dataset = dataset_from_path(data)
    types, file = dataset.types, dataset_file_from_folder(dataset.root)
    weights = trunk_weights(STAND_IN, None)
    model = InspectionModel(weights.backbone, 0, 1)
    model.trunk.load_state_dict(weights.state)
    model.to(device_to_learn_on())
    geometry = Geometry(input_height_px=input_px, input_width_px=input_px, channels=1)
    joined = joined_parts(dataset, near_duplicates(dataset, console))
    views = views_of_photos(model, dataset.photos, geometry, file, 0, console)
    stages = tuned_stages(model.trunk)
    given = samples_from_views(stages, views, console)
    lessons = [replace(x, part_id=joined.get(x.part_id, x.part_id)) for x in given]
    views = [replace(x, part_id=joined.get(x.part_id, x.part_id)) for x in views]
    counted = {t: len({x.part_id for x in lessons if x.label == t}) for t in (GOOD, *types)}
    click.echo(
        f"{weights.backbone}, {input_px} px, {len(lessons)} photographs; parts once joined: {_listed(counted)}.\n"
    )
    click.echo(head_line(types))
    head = fit_of_head(lessons, types)
    for count in COUNTS:
        images = "all" if count is None else str(count)
        scores = [scores_by(head, lessons, types, count, seed) for seed in SEEDS]
        line, of_head = row(f"head, {images}", [judged_from_scores(x, lessons, types) for x in scores], None)
        click.echo(line)
        for name, use in (("mean patch alone", (False, True)), ("patches alone", (True, False))):
            alone = [judged_from_scores(x, lessons, types, use) for x in scores]
            click.echo(row(f"{name}, {images}", alone, of_head)[0])
    click.echo("")
    click.echo(head_line(types))
    each = [replace(x, part_id=str(place)) for place, x in enumerate(lessons)]
    for name, of in (("parts as given", given), ("photographs as parts", each)):
        scores = [scores_by(fit_of_head(of, types), of, types, None, seed) for seed in SEEDS]
        click.echo(row(name, [judged_from_scores(x, of, types) for x in scores], None)[0])
    if not tuned:
        return
    click.echo("")
    click.echo(head_line(types))
    fits = {"head": head, "fine-tuned": fit_of_tuned(stages, views, lessons, types)}
    for count in COUNTS:
        reference = None
        for name, fit in fits.items():
            scores = [scores_by(fit, lessons, types, count, seed, TUNED_FOLDS) for seed in TUNED_SEEDS]
            judged = [judged_from_scores(x, lessons, types) for x in scores]
            images = "all" if count is None else str(count)
            line, reference = row(f"{name}, {images}, {TUNED_FOLDS} folds, one draw", judged, reference)
            click.echo(line)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    learning_table()
