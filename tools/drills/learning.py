"""`make drill-learning DATA=DIR`: the accuracy of each learning method on held-out parts, as Markdown on stdout.

Every method is fitted without the part that it scores. The training photographs of a type are reduced to 15 and 30 by
whole parts; the removed parts are scored too. Parts that look alike are joined first, as `procunit train` suggests. The
second table shows the accuracy that would be claimed with the part ids as given, and with one part per photograph.
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
from rich.progress import Progress
from torch import nn

from calibration.metrics import auc
from edge.bundle.manifest import GOOD
from edge.cli.program import run_program
from edge.geometry import Geometry
from edge.plain_text import plain
from edge.terminal import Console, echo, echo_lines
from tools.benchmarks.good_parts_run import model_without_types
from tools.benchmarks.joined_parts import dataset_with_joined_parts
from training.data.dataset import dataset_from_path
from training.data.dataset_yaml import dataset_file_from_folder
from training.features import Sample
from training.finetune import Views, fine_tuned, sample_from_views, samples_from_views, tuned_stages, views_of_photos
from training.head import Discriminants, discriminants, head_from_discriminants, scatter_from_samples
from training.learning_curve import drawn_photos
from training.model import device_to_learn_on, each_on_one_core
from training.validation import blend_from_scores, folds_by_part
from training.weights import STAND_IN, trunk_weights

COUNTS = (15, 30, None)
SEEDS, FOLDS = (0, 1, 2), 10
TUNED_SEEDS, TUNED_FOLDS = (0,), 5
"""For fine-tuning, where each fold takes minutes on two cores."""
BOOTSTRAP_DRAWS = 2000
FALSE_ALARMS = (0.01, 0.05)

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[int], Sequence[int], int], torch.Tensor]
"""Called with the indices of training photographs, the indices of held-out ones and the fold; returns the scores
[k, 2, T] of the held-out ones."""


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold logits [n, T] of every photograph, with its label and part."""

    logits: Floats
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    types: tuple[str, ...]

    def part_scores(self, label: str, column: int | None) -> Floats:
        """The mean logit of each part with a label: the logit of one type (`column`), or the highest of all types."""
        values = self.logits.max(1) if column is None else self.logits[:, column]
        defective = {part for part, of in zip(self.parts, self.labels, strict=True) if of != GOOD}
        by_part: dict[str, list[float]] = {}
        for value, of, part in zip(values, self.labels, self.parts, strict=True):
            if of == label and (label != GOOD or part not in defective):
                by_part.setdefault(part, []).append(value)
        return np.array([np.mean(by_part[part]) for part in sorted(by_part)])

    def agreement(self, false_alarms: float) -> float:
        """The share of parts with several photographs that all get the same answer; NaN if there are no such parts."""
        limit, highest = np.quantile(self.part_scores(GOOD, None), 1 - false_alarms), self.logits.max(1)
        answers: dict[tuple[str, str], set[bool]] = {}
        counts: dict[tuple[str, str], int] = {}
        for value, of, part in zip(highest, self.labels, self.parts, strict=True):
            answers.setdefault((of, part), set()).add(bool(value > limit))
            counts[of, part] = counts.get((of, part), 0) + 1
        several = [key for key, count in counts.items() if count > 1]
        return float(np.mean([len(answers[key]) == 1 for key in several])) if several else float("nan")


def drawn_means(runs: Sequence[OutOfFold], draws: int) -> Floats:
    """Mean AUC over types and seeds for bootstrapped parts: [draws]; every method gets the same draws."""
    rng = np.random.default_rng(0)
    first = runs[0]
    good = len(first.part_scores(GOOD, 0))
    indices = [
        [rng.integers(n, size=n) for n in (good, *(len(first.part_scores(t, 0)) for t in first.types))]
        for _ in range(draws)
    ]
    means = np.zeros(draws)
    for of_seed in runs:
        scores = [(of_seed.part_scores(t, i), of_seed.part_scores(GOOD, i)) for i, t in enumerate(of_seed.types)]
        for draw, (of_good, *of_types) in enumerate(indices):
            means[draw] += np.mean([auc(p[of], n[of_good]) for (p, n), of in zip(scores, of_types, strict=True)])
    return means / len(runs)


def scores_by(
    fit: Fit,
    lessons: Sequence[Sample],
    types: tuple[str, ...],
    count: int | None,
    seed: int,
    folds_at_most: int = FOLDS,
) -> torch.Tensor:
    """Out-of-fold scores [n, 2, T] of all photographs; each fit excludes the photograph's part."""
    fold_of = folds_by_part(lessons, types, seed, folds_at_most)
    taught = [True] * len(lessons)
    if count is not None:
        taught = drawn_photos(lessons, types, count, random.Random(f"{seed} {count}"))  # noqa: S311
    scores = torch.full((len(lessons), 2, len(types)), torch.nan, dtype=torch.float64)
    folds = sorted(set(fold_of))
    left_out = [[i for i, of in enumerate(fold_of) if of == fold] for fold in folds]
    rest = [[i for i, of in enumerate(fold_of) if of != fold and taught[i]] for fold in folds]
    found = each_on_one_core(
        lambda fold: fit(rest[fold], left_out[fold], fold), range(len(folds)), "Cross-validating", Console(stderr=True)
    )
    for indices, of_fold in zip(left_out, found, strict=True):
        scores[indices] = of_fold
    return scores


def out_of_fold_from_scores(
    scores: torch.Tensor, lessons: Sequence[Sample], types: tuple[str, ...], use: tuple[bool, bool] = (True, True)
) -> OutOfFold:
    """Blend both scores as a training run does; `use` selects the patch score and the mean-patch score."""
    blend = blend_from_scores(scores, lessons, types)
    blend = replace(blend, patch=blend.patch * use[0], context=blend.context * use[1])
    return OutOfFold(
        blend.logits(scores).numpy(), tuple(x.label for x in lessons), tuple(x.part_id for x in lessons), types
    )


def fit_of_head(lessons: Sequence[Sample], types: Sequence[str]) -> Fit:
    """The closed-form head on the features of the pretrained network."""

    def fit(taught: Sequence[int], left_out: Sequence[int], _: int) -> torch.Tensor:
        found = _discriminants([lessons[i] for i in taught], types)
        return torch.stack([found.scores(lessons[i]) for i in left_out])

    return fit


def fit_of_tuned(stages: nn.ModuleList, views: Sequence[Views], lessons: Sequence[Sample], types: Sequence[str]) -> Fit:
    """The closed-form head on features whose last stages are fine-tuned on the training photographs."""

    def fit(taught: Sequence[int], left_out: Sequence[int], fold: int) -> torch.Tensor:
        start = [lessons[i] for i in taught]
        untuned = _discriminants(start, types)
        scores = torch.stack([untuned.scores(x) for x in start])
        head = head_from_discriminants(untuned, blend_from_scores(scores, start, types))
        tuned = fine_tuned(stages, [views[i] for i in taught], types, head, fold, Progress(disable=True))
        found = _discriminants([sample_from_views(tuned, views[i]) for i in taught], types)
        return torch.stack([found.scores(sample_from_views(tuned, views[i])) for i in left_out])

    return fit


def _discriminants(lessons: Sequence[Sample], types: Sequence[str]) -> Discriminants:
    return discriminants(lessons, types, scatter_from_samples(lessons))


def row(name: str, runs: Sequence[OutOfFold], reference: Floats | None) -> tuple[str, Floats]:
    """A row of the table, and its bootstrapped means for comparison with other rows."""
    draws = drawn_means(runs, BOOTSTRAP_DRAWS)
    types = runs[0].types
    means = [np.mean([auc(x.part_scores(t, i), x.part_scores(GOOD, i)) for x in runs]) for i, t in enumerate(types)]
    low, high = np.percentile(draws, (2.5, 97.5))
    cells = [f"{np.mean(means):.3f} ({low:.2f} to {high:.2f})", *(f"{mean:.3f}" for mean in means)]
    escapes = [np.mean([_escapes(x, rate) for x in runs]) for rate in FALSE_ALARMS]
    cells += [" / ".join(f"{100 * x:.0f} %" for x in escapes)]
    agreement = float(np.mean([x.agreement(FALSE_ALARMS[1]) for x in runs]))
    cells += ["-" if np.isnan(agreement) else f"{100 * agreement:.0f} %"]
    if reference is None:
        cells.append("-")
    else:
        low, high = np.percentile(draws - reference, (2.5, 97.5))
        cells.append(f"{np.mean(draws - reference):+.3f} ({low:+.3f} to {high:+.3f})")
    return f"| {name} | {' | '.join(cells)} |", draws


def _escapes(run: OutOfFold, false_alarms: float) -> float:
    limit = np.quantile(run.part_scores(GOOD, None), 1 - false_alarms)
    return float(np.mean(np.concatenate([run.part_scores(t, None) for t in run.types]) <= limit))


def head_line(types: Sequence[str]) -> str:
    """The heading of the table in Markdown."""
    columns = ["", "mean over types", *types, "escapes at 1 / 5 %", "agreement", "against the head"]
    return f"| {' | '.join(map(plain, columns))} |\n|{'---|' * len(columns)}"


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder: good/ and one folder per type.")
@click.option("--input-px", default=384, show_default=True, help="Side of the input.")
@click.option("--tuned/--no-tuned", default=True, help="Also fine-tune: an hour on two cores, minutes on a GPU.")
def learning_table(data: Path, input_px: int, tuned: bool) -> None:
    """Compare the learning methods on held-out parts."""
    console = Console(stderr=True)
    dataset = dataset_from_path(data)
    types, file = dataset.types, dataset_file_from_folder(dataset.root)
    weights = trunk_weights(STAND_IN, None)
    geometry = Geometry(input_height_px=input_px, input_width_px=input_px, channels=1)
    model = model_without_types(weights, geometry).to(device_to_learn_on())
    joined = dataset_with_joined_parts(dataset, console)
    views = views_of_photos(model, joined.photos, geometry, file, 0, console)
    stages = tuned_stages(model.trunk)
    lessons = samples_from_views(stages, views, console)
    given = [replace(x, part_id=photo.part_id) for x, photo in zip(lessons, dataset.photos, strict=True)]
    counted = {t: len({x.part_id for x in lessons if x.label == t}) for t in (GOOD, *types)}
    echo(
        f"{weights.backbone}, {input_px} px, {len(lessons)} photographs; "
        f"parts after joining look-alikes: {_listed(counted)}."
    )
    echo()
    echo_lines(head_line(types))
    head = fit_of_head(lessons, types)
    for count in COUNTS:
        images = "all" if count is None else str(count)
        scores = [scores_by(head, lessons, types, count, seed) for seed in SEEDS]
        line, of_head = row(f"head, {images}", [out_of_fold_from_scores(x, lessons, types) for x in scores], None)
        echo(line)
        for name, use in (("mean patch only", (False, True)), ("patches only", (True, False))):
            alone = [out_of_fold_from_scores(x, lessons, types, use) for x in scores]
            echo(row(f"{name}, {images}", alone, of_head)[0])
    echo()
    echo_lines(head_line(types))
    each = [replace(x, part_id=str(index)) for index, x in enumerate(lessons)]
    for name, of in (("parts as given", given), ("one part per photograph", each)):
        scores = [scores_by(fit_of_head(of, types), of, types, None, seed) for seed in SEEDS]
        echo(row(name, [out_of_fold_from_scores(x, of, types) for x in scores], None)[0])
    if not tuned:
        return
    echo()
    echo_lines(head_line(types))
    fits = {"head": head, "fine-tuned": fit_of_tuned(stages, views, lessons, types)}
    for count in COUNTS:
        reference = None
        for name, fit in fits.items():
            scores = [scores_by(fit, lessons, types, count, seed, TUNED_FOLDS) for seed in TUNED_SEEDS]
            runs = [out_of_fold_from_scores(x, lessons, types) for x in scores]
            images = "all" if count is None else str(count)
            line, reference = row(f"{name}, {images}, {TUNED_FOLDS} folds, one draw", runs, reference)
            echo(line)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    run_program(learning_table, "learning")
