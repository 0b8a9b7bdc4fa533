"""`make drill-hidden DATA=DIR`: accuracy lost by the anomaly scorer if good parts include hidden defects, as Markdown.

Each draw splits the parts anew, hides some defect parts among the good ones, and builds head and bank with and without
them, as training and export do; the tests use parts unseen by both. The trunk runs once on all photographs. Draws share
parts, so the standard error holds for more draws from this folder, not for other products.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import rich.console
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from calibration.metrics import auc
from edge.anomaly import counted_patches, distances_to_rows, score_from_distances
from edge.bundle.manifest import GOOD
from edge.cli.program import run_program
from edge.terminal import Console, echo, echo_lines
from export.bank.candidates import PhotoPatches, patches_with_defect_logits
from export.bank.coreset import k_center_greedy
from export.bank.memory_bank import good_patches, rows_with_local_scale
from export.bank.space import Matrix, PatchSpace
from tools.benchmarks.good_parts_run import model_without_types, record_of_good_parts
from tools.benchmarks.joined_parts import dataset_with_joined_parts
from tools.benchmarks.peers.report import heading, table_from_rows
from tools.drills.hidden_defects import PhotoFeatures, Split, drawn_split, features_from_photo, types_of_parts
from training.data.dataset import Dataset, dataset_from_path
from training.data.run_files import RunPhoto, TrainRecord
from training.features import Sample, checked_geometry
from training.head import Scatter, discriminants, empty_scatter, head_from_discriminants, scatter_from_samples
from training.model import DefectHead, device_to_learn_on, each_on_one_core, iterate_each_on_one_core
from training.validation import blend_from_scores, folds_by_part, out_of_fold_of_some
from training.weights import STAND_IN, trunk_weights

BANK_ROWS = 4096
FOLDS = 5
"""Folds for the blend of the head; few, for speed."""
_QUIET = Console(quiet=True)


@dataclass(frozen=True, eq=False, slots=True)
class Bank:
    """A bank's rows [M, D + 1], their space, the parts that they come from, and the parts that were excluded whole."""

    rows: Matrix
    space: PatchSpace
    parts: frozenset[str]
    excluded_parts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw's AUCs, the number of hidden parts, and how many of them were excluded whole from the bank."""

    clean: float
    hidden: float
    nothing_excluded: float
    hidden_parts: int
    excluded_hidden_parts: int


@dataclass(frozen=True, eq=False)
class Drill:
    """All photographs with look-alike parts joined; `stride8_features` of the bank's features come from stride 8.

    `scatters` caches sums over a part's photographs by part and label, for all draws.
    """

    dataset: Dataset
    photos: Sequence[PhotoFeatures]
    stride8_features: int
    record: TrainRecord
    scatters: dict[tuple[str, bool], Scatter] = field(default_factory=dict)

    def draws(self, count: int, console: rich.console.Console) -> Iterator[Drawn]:
        """The draws in order, one per core at a time; every call gives the same draws."""
        type_of = types_of_parts(self.dataset.photos)

        def drawn(seed: int) -> Drawn:
            return self.drawn(drawn_split(type_of, self.dataset.types, seed), seed)

        return iterate_each_on_one_core(drawn, range(count), "Hiding defects", console)

    def drawn(self, split: Split, seed: int) -> Drawn:
        """Build head and bank with and without the hidden parts, and measure them on the tested parts."""
        clean, hidden = (self.training_set(split, hide=hide) for hide in (False, True))
        without = self.bank_of(clean, self.head_of(clean, seed), seed)
        among = self.bank_of(hidden, self.head_of(hidden, seed), seed)
        everything = self.bank_of(hidden, None, seed)
        return Drawn(
            clean=self.auc_of(without, split),
            hidden=self.auc_of(among, split),
            nothing_excluded=self.auc_of(everything, split),
            hidden_parts=len(split.hidden),
            excluded_hidden_parts=len(split.hidden & among.excluded_parts),
        )

    def training_set(self, split: Split, *, hide: bool) -> list[PhotoFeatures]:
        """The training photographs: good parts, taught defects and, with `hide`, hidden defects labelled good."""
        known = self._photos_of(split.bank, split.taught)
        hidden = [features.called_good() for features in self._photos_of(frozenset(), split.hidden)]
        return known + hidden if hide else known

    def head_of(self, training_set: Sequence[PhotoFeatures], seed: int) -> DefectHead:
        """The head, fitted as in training but with few folds."""
        lessons, types = [features.lesson for features in training_set], self.dataset.types
        fold_of = folds_by_part(lessons, types, seed, FOLDS)
        fold_of_part = {lesson.part_id: fold for lesson, fold in zip(lessons, fold_of, strict=True)}
        scatters = {fold: empty_scatter(lessons[0].patches.shape[1]) for fold in set(fold_of)}
        for part_id, fold in fold_of_part.items():
            scatters[fold] += self._scatter([x for x in lessons if x.part_id == part_id])
        unseen = out_of_fold_of_some(lessons, types, fold_of, scatters, [True] * len(lessons), _QUIET)
        blend = blend_from_scores(unseen.scores, lessons, types)
        return head_from_discriminants(discriminants(lessons, types, unseen.clean), blend)

    def bank_of(self, training_set: Sequence[PhotoFeatures], head: DefectHead | None, seed: int) -> Bank:
        """The bank, built as in an export; without a head nothing is excluded."""
        read = partial(_patches, {features.photo.file: features for features in training_set}, head)
        photos = tuple(
            RunPhoto(sha256=of.sha256, part_id=of.part_id, label=of.label, role="train", file=of.file)
            for of in (features.photo for features in training_set)
        )
        record = self.record.model_copy(update={"seed": seed, "photos": photos})
        good = good_patches(read, self.stride8_features, record, _QUIET)
        allowed, parts = good.allowed, np.array([photo.part_id for photo in good.photos])
        chosen = k_center_greedy(allowed.patches, BANK_ROWS, seed).indices
        return Bank(
            rows=rows_with_local_scale(allowed.patches[chosen]).numpy(),
            space=good.space,
            parts=frozenset(parts[allowed.photo_index[chosen].numpy()].tolist()),
            excluded_parts=frozenset(parts[good.likely_defective].tolist()),
        )

    def auc_of(self, made: Bank, split: Split) -> float:
        """AUC of the tested defect parts against the tested good ones; a part's score is its photographs' mean."""
        scores: dict[str, list[float]] = {}
        for features in self._photos_of(split.tested_good, split.tested_defects):
            distances = distances_to_rows(made.space.apply(features.patches.astype(np.float32)), made.rows)
            score = score_from_distances(distances, counted_patches(len(distances)))
            scores.setdefault(features.photo.part_id, []).append(score)
        positive, negative = (
            np.array([np.mean(scores[part]) for part in sorted(parts)])
            for parts in (split.tested_defects, split.tested_good)
        )
        found = auc(positive, negative)
        if found is None:
            raise ValueError("the draw has no tested parts")
        return found

    def _photos_of(self, good: frozenset[str], defects: frozenset[str]) -> list[PhotoFeatures]:
        """The good photographs of the parts `good` and the defect photographs of the parts `defects`."""
        return [
            features
            for features in self.photos
            if features.photo.part_id in (good if features.photo.label == GOOD else defects)
        ]

    def _scatter(self, of_part: Sequence[Sample]) -> Scatter:
        key = (of_part[0].part_id, of_part[0].label == GOOD)
        if key not in self.scatters:
            found = scatter_from_samples(of_part)
            self.scatters[key] = replace(found, outer=found.outer.float())  # half the memory; sums are in float64
        return self.scatters[key]


def drill_from_folder(data: Path, input_px: int, console: rich.console.Console) -> Drill:
    """Read the photographs, join look-alike parts and run the trunk on all of them.

    Raises:
        ProcunitError: the folder is not usable.
    """
    given = dataset_from_path(data)
    geometry = checked_geometry(given, input_px, console)
    dataset = dataset_with_joined_parts(given, console)
    weights = trunk_weights(STAND_IN, None)
    model = model_without_types(weights, geometry).to(device_to_learn_on())
    photos = each_on_one_core(
        partial(features_from_photo, model, geometry), dataset.photos, "Computing features", console
    )
    record = record_of_good_parts(dataset, (), weights, geometry, 0, "drill").model_copy(update={"types": given.types})
    return Drill(dataset, photos, model.channels_of_stride8, record)


def rows_from_draws(draws: Sequence[Drawn]) -> list[tuple[str, ...]]:
    """Table rows, heading first; each drop is relative to the clean bank of the same draw."""
    hidden_parts = sum(draw.hidden_parts for draw in draws)
    excluded_parts = sum(draw.excluded_hidden_parts for draw in draws)
    clean = np.array([draw.clean for draw in draws])
    among = np.array([draw.hidden for draw in draws])
    everything = np.array([draw.nothing_excluded for draw in draws])
    return [
        ("good parts", "anomaly AUC", "drop (standard error)", "95 % interval", "hidden parts excluded"),
        ("clean", f"{clean.mean():.3f}", "-", "-", "-"),
        ("with hidden defects", f"{among.mean():.3f}", *_drop(clean - among), f"{excluded_parts} of {hidden_parts}"),
        ("the same, nothing excluded", f"{everything.mean():.3f}", *_drop(clean - everything), f"0 of {hidden_parts}"),
    ]


def _drop(drops: NDArray[np.float64]) -> tuple[str, str]:
    """The mean drop with its standard error over draws, and its 95 % interval."""
    if len(drops) < 2:
        return f"{drops.mean():.4f}", "-"
    mean, error = drops.mean(), drops.std(ddof=1) / np.sqrt(len(drops))
    half_width = student_t.ppf(0.975, len(drops) - 1) * error
    return f"{mean:.4f} ({error:.4f})", f"{mean - half_width:.4f} to {mean + half_width:.4f}"


def _patches(training_set: Mapping[str, PhotoFeatures], head: DefectHead | None, photo: RunPhoto) -> PhotoPatches:
    """A good photograph's inspected patches as in an export, from the stored features."""
    features = training_set[photo.file]
    inputs_of_head = features.lesson.patches.float().reshape(*features.lesson.grid, -1).permute(0, 3, 1, 2)
    return patches_with_defect_logits(features.patches.astype(np.float32), features.inspected, head, inputs_of_head)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder: good/ and one folder per type.")
@click.option("--draws", type=click.IntRange(min=1), default=20, show_default=True, help="Number of random splits.")
@click.option("--input-px", default=384, show_default=True, help="Side of the input.")
def main(data: Path, draws: int, input_px: int) -> None:
    """Hide defects among the good parts and print the loss of AUC; Ctrl-C prints the results so far."""
    console = Console(stderr=True)
    drill = drill_from_folder(data, input_px, console)
    started, found = time.monotonic(), list[Drawn]()
    try:
        for draw in drill.draws(draws, console):
            found.append(draw)
            echo(
                f"draw {len(found)} of {draws}: AUC {draw.clean:.4f}, drop {draw.clean - draw.hidden:+.4f}, with "
                f"nothing excluded {draw.clean - draw.nothing_excluded:+.4f}; {draw.excluded_hidden_parts} of "
                f"{draw.hidden_parts} hidden parts excluded; {time.monotonic() - started:.0f} s",
                err=True,
            )
    except KeyboardInterrupt:
        echo(f"interrupted after {len(found)} of {draws} draws", err=True)
    if not found:
        raise click.exceptions.Exit(1)
    counted = Counter(types_of_parts(drill.dataset.photos).values())
    echo_lines(heading(f"python -m tools.drills.hidden --data {data} --draws {draws} --input-px {input_px}"))
    echo(
        f"{drill.record.backbone}, {len(drill.photos)} photographs; parts after joining look-alikes: "
        f"{', '.join(f'{name} {counted[name]}' for name in (GOOD, *drill.dataset.types))}; {len(found)} draws."
    )
    echo()
    echo_lines(table_from_rows(rows_from_draws(found)).rstrip("\n"))


if __name__ == "__main__":
    run_program(main, "hidden")
