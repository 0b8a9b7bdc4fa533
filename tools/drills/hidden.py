"""`make drill-hidden DATA=DIR`: what the anomaly scorer loses when defects lie among the good parts, as Markdown.

Each draw splits the parts anew, hides some defect parts among the good ones and makes head and bank with them and
without them, as training and export do; parts that neither has seen are tested. The trunk runs once over all
photographs. Draws share parts, so the standard error is that of more draws from this folder, not of other products.
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
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from calibration.metrics import auc
from edge.anomaly import counted_patches, distances_to_rows, score_from_distances
from edge.bundle.manifest import GOOD
from export.bank.candidates import PhotoPatches, patches_with_defect_logits
from export.bank.coreset import k_center_greedy
from export.bank.memory_bank import good_patches, rows_with_local_scale
from export.bank.space import Matrix, PatchSpace
from tools.benchmarks.good_parts_run import model_without_types, record_of_good_parts
from tools.benchmarks.peers.report import heading, table_from_rows
from tools.drills.hidden_defects import Seen, Split, drawn_split, seen_photo, types_of_parts
from training.data.dataset import Dataset, dataset_from_path
from training.data.run_files import RunPhoto, TrainRecord
from training.features import Lesson, checked_geometry
from training.head import Scatter, discriminants, empty_scatter, head_from_discriminants, scatter_from_lessons
from training.model import DefectHead, device_to_learn_on, each_on_one_core, in_turn_on_one_core
from training.near_duplicates import joined_parts, near_duplicates
from training.validation import blend_from_scores, folds_by_part, out_of_fold_of_some
from training.weights import STAND_IN, trunk_weights

BANK_ROWS = 4096
FOLDS = 5
"""Of the head's blend: few, for speed."""
_QUIET = Console(quiet=True)


@dataclass(frozen=True, eq=False, slots=True)
class Bank:
    """A bank's rows [M, D + 1], the space they are in, the parts that gave them, and those left out whole."""

    rows: Matrix
    space: PatchSpace
    parts: frozenset[str]
    left_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw's AUCs, and how many parts were hidden and how many of them were left out of the bank whole."""

    clean: float
    hidden: float
    nothing_left_out: float
    hidden_parts: int
    left_out_parts: int


@dataclass(frozen=True, eq=False)
class Drill:
    """All photographs, parts that look alike joined; `fine` of the bank's features are stride 8's.

    `scatters` are sums over a part's photographs as they were called, kept from draw to draw.
    """

    dataset: Dataset
    seen: Sequence[Seen]
    fine: int
    record: TrainRecord
    scatters: dict[tuple[str, bool], Scatter] = field(default_factory=dict)

    def draws(self, count: int, console: Console) -> Iterator[Drawn]:
        """Draws in order, one on each core at a time; the same ones each time."""
        type_of = types_of_parts(self.dataset.photos)

        def drawn(seed: int) -> Drawn:
            return self.drawn(drawn_split(type_of, self.dataset.types, seed), seed)

        return in_turn_on_one_core(drawn, range(count), "Hiding defects", console)

    def drawn(self, split: Split, seed: int) -> Drawn:
        """Head and bank with the hidden parts and without, judged on the tested parts."""
        clean, hidden = (self.told(split, hide=hide) for hide in (False, True))
        without = self.bank_of(clean, self.head_of(clean, seed), seed)
        among = self.bank_of(hidden, self.head_of(hidden, seed), seed)
        everything = self.bank_of(hidden, None, seed)
        return Drawn(
            clean=self.auc_of(without, split),
            hidden=self.auc_of(among, split),
            nothing_left_out=self.auc_of(everything, split),
            hidden_parts=len(split.hidden),
            left_out_parts=len(split.hidden & among.left_out),
        )

    def told(self, split: Split, *, hide: bool) -> list[Seen]:
        """What head and bank are made from: good parts, taught defects and, if so wished, hidden ones called good."""
        known = self._seen_of(split.bank, split.taught)
        hidden = [one.called_good() for one in self._seen_of(frozenset(), split.hidden)]
        return known + hidden if hide else known

    def head_of(self, told: Sequence[Seen], seed: int) -> DefectHead:
        """The head as training fits it, with few folds."""
        lessons, types = [one.lesson for one in told], self.dataset.types
        fold_of = folds_by_part(lessons, types, seed, FOLDS)
        fold_of_part = {lesson.part_id: fold for lesson, fold in zip(lessons, fold_of, strict=True)}
        scatters = {fold: empty_scatter(lessons[0].patches.shape[1]) for fold in set(fold_of)}
        for part_id, fold in fold_of_part.items():
            scatters[fold] += self._scatter([x for x in lessons if x.part_id == part_id])
        unseen = out_of_fold_of_some(lessons, types, fold_of, scatters, [True] * len(lessons), _QUIET)
        blend = blend_from_scores(unseen.scores, lessons, types)
        return head_from_discriminants(discriminants(lessons, types, unseen.clean), blend)

    def bank_of(self, told: Sequence[Seen], head: DefectHead | None, seed: int) -> Bank:
        """The bank as export makes it; without a head nothing is left out."""
        read = partial(_patches, {one.photo.file: one for one in told}, head)
        photos = tuple(
            RunPhoto(sha256=of.sha256, part_id=of.part_id, label=of.label, role="train", file=of.file)
            for of in (one.photo for one in told)
        )
        record = self.record.model_copy(update={"seed": seed, "photos": photos})
        good = good_patches(read, self.fine, record, _QUIET)
        allowed, parts = good.allowed, np.array([photo.part_id for photo in good.photos])
        chosen = k_center_greedy(allowed.patches, BANK_ROWS, seed).indices
        return Bank(
            rows=rows_with_local_scale(allowed.patches[chosen]).numpy(),
            space=good.space,
            parts=frozenset(parts[allowed.photo_index[chosen].numpy()].tolist()),
            left_out=frozenset(parts[good.likely_defective].tolist()),
        )

    def auc_of(self, made: Bank, split: Split) -> float:
        """The AUC of the tested defect parts against the tested good ones; a part's score is its photographs' mean."""
        scores: dict[str, list[float]] = {}
        for one in self._seen_of(split.tested_good, split.tested_defects):
            distances = distances_to_rows(made.space.apply(one.patches.astype(np.float32)), made.rows)
            score = score_from_distances(distances, counted_patches(len(distances)))
            scores.setdefault(one.photo.part_id, []).append(score)
        positive, negative = (
            np.array([np.mean(scores[part]) for part in sorted(parts)])
            for parts in (split.tested_defects, split.tested_good)
        )
        found = auc(positive, negative)
        if found is None:
            raise ValueError("a draw without tested parts")
        return found

    def _seen_of(self, good: frozenset[str], defects: frozenset[str]) -> list[Seen]:
        """The good photographs of the one parts and the defect photographs of the others."""
        return [one for one in self.seen if one.photo.part_id in (good if one.photo.label == GOOD else defects)]

    def _scatter(self, of_part: Sequence[Lesson]) -> Scatter:
        key = (of_part[0].part_id, of_part[0].label == GOOD)
        if key not in self.scatters:
            found = scatter_from_lessons(of_part)
            self.scatters[key] = replace(found, outer=found.outer.float())  # half the memory; sums are in float64
        return self.scatters[key]


def drill_from_folder(data: Path, input_px: int, console: Console) -> Drill:
    """Read the photographs, join parts that look alike and run the trunk over all of them.

    Raises:
        ProcunitError: the folder is not usable.
    """
    given = dataset_from_path(data)
    geometry = checked_geometry(given, input_px, console)
    joined = joined_parts(given, near_duplicates(given, console))
    dataset = replace(given, photos=tuple(replace(photo, part_id=joined[photo.part_id]) for photo in given.photos))
    weights = trunk_weights(STAND_IN, None)
    model = model_without_types(weights, geometry).to(device_to_learn_on())
    seen = each_on_one_core(partial(seen_photo, model, geometry), dataset.photos, "Computing features", console)
    record = record_of_good_parts(dataset, (), weights, geometry, 0, "drill").model_copy(update={"types": given.types})
    return Drill(dataset, seen, model.channels_of_stride8, record)


def rows_from_draws(draws: Sequence[Drawn]) -> list[tuple[str, ...]]:
    """A table's rows, the first of them its heading; falls are against the clean bank of the same draw."""
    hidden_parts = sum(one.hidden_parts for one in draws)
    left_out = sum(one.left_out_parts for one in draws)
    clean = np.array([one.clean for one in draws])
    among = np.array([one.hidden for one in draws])
    everything = np.array([one.nothing_left_out for one in draws])
    return [
        ("good parts", "anomaly AUC", "fall (standard error)", "95 % interval", "hidden parts left out whole"),
        ("clean", f"{clean.mean():.3f}", "-", "-", "-"),
        ("with hidden defects", f"{among.mean():.3f}", *_fall(clean - among), f"{left_out} of {hidden_parts}"),
        ("the same, nothing left out", f"{everything.mean():.3f}", *_fall(clean - everything), f"0 of {hidden_parts}"),
    ]


def _fall(falls: NDArray[np.float64]) -> tuple[str, str]:
    """The mean with its standard error over draws, and its interval."""
    if len(falls) < 2:
        return f"{falls.mean():.4f}", "-"
    mean, error = falls.mean(), falls.std(ddof=1) / np.sqrt(len(falls))
    reach = student_t.ppf(0.975, len(falls) - 1) * error
    return f"{mean:.4f} ({error:.4f})", f"{mean - reach:.4f} to {mean + reach:.4f}"


def _patches(told: Mapping[str, Seen], head: DefectHead | None, photo: RunPhoto) -> PhotoPatches:
    """A good photograph's judged patches as export reads them, from what the trunk gave once."""
    one = told[photo.file]
    of_head = one.lesson.patches.float().reshape(*one.lesson.grid, -1).permute(0, 3, 1, 2)
    return patches_with_defect_logits(one.patches.astype(np.float32), one.judged, head, of_head)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of good/ and one folder a type.")
@click.option("--draws", type=click.IntRange(min=1), default=20, show_default=True, help="Draws of parts.")
@click.option("--input-px", default=384, show_default=True, help="Side of the input.")
def main(data: Path, draws: int, input_px: int) -> None:
    """Hide defects among the good parts and print what that costs; Ctrl-C prints what is known so far."""
    console = Console(stderr=True)
    drill = drill_from_folder(data, input_px, console)
    started, found = time.monotonic(), list[Drawn]()
    try:
        for one in drill.draws(draws, console):
            found.append(one)
            click.echo(
                f"draw {len(found)} of {draws}: AUC {one.clean:.4f}, fall {one.clean - one.hidden:+.4f}, with nothing "
                f"left out {one.clean - one.nothing_left_out:+.4f}; {one.left_out_parts} of {one.hidden_parts} hidden "
                f"parts left out whole; {time.monotonic() - started:.0f} s",
                err=True,
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted after {len(found)} of {draws} draws", err=True)
    if not found:
        raise click.exceptions.Exit(1)
    counted = Counter(types_of_parts(drill.dataset.photos).values())
    click.echo(heading(f"python -m tools.drills.hidden --data {data} --draws {draws} --input-px {input_px}"))
    click.echo(
        f"{drill.record.backbone}, {len(drill.seen)} photographs; parts once joined: "
        f"{', '.join(f'{name} {counted[name]}' for name in (GOOD, *drill.dataset.types))}; {len(found)} draws.\n"
    )
    click.echo(table_from_rows(rows_from_draws(found)), nl=False)


if __name__ == "__main__":
    main()
