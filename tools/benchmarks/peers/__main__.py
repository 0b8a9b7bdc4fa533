"""`python -m tools.benchmarks.peers coreset` and `... accuracy --data DIR`: Markdown on stdout, progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from edge.cli.program import run_program
from edge.terminal import Console, echo, echo_lines
from tools.benchmarks.peers.contest import DEFAULTS, layers_of_backbone, results_of_fold
from tools.benchmarks.peers.figures import ALL_DEFECTS, FoldResult, accuracy_from_results
from tools.benchmarks.peers.photographs import FOLDS, MAX_PEER_PHOTOS, SEED, Contest, contest_from_folder, folds_by_part
from tools.benchmarks.peers.points import FEATURES
from tools.benchmarks.peers.race import HEATS, laps_of_heat
from tools.benchmarks.peers.report import accuracy_rows, auc_text, contestant_rows, heading, race_rows, table_from_rows
from training.data.dataset import Photo
from training.weights import STAND_IN

INPUT_PX = 320
_MULTIPLE_PX = 32


@click.group()
def main() -> None:
    """Compare our PatchCore with anomalib's."""


@main.command()
def coreset() -> None:
    """Time both sides' greedy k-center on the same points, and ours alone on a million."""
    with TemporaryDirectory(prefix="bench-peers-") as directory:
        laps = [lap for heat in HEATS for lap in laps_of_heat(heat, Path(directory))]
    echo_lines(heading("python -m tools.benchmarks.peers coreset"))
    echo_lines(table_from_rows(race_rows(laps)))
    echo(
        f"Random clusters of {FEATURES} features, float32. Each lap is a separate process on all cores; the sides take "
        "turns. Seconds are for the selection only, including anomalib's default random projection. Peak MB is that of "
        "the process, points included. The covering radius is over all points and features in float64 (smaller is "
        "better)."
    )


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder: good/ and one folder per type.")
@click.option(
    "--input-px", type=click.IntRange(64), default=INPUT_PX, show_default=True, help="Input side, a multiple of 32."
)
@click.option("--folds", type=click.IntRange(1, FOLDS), default=FOLDS, show_default=True, help="How many folds to run.")
def accuracy(data: Path, input_px: int, folds: int) -> None:
    """Evaluate both sides on a labelled folder: same backbone, same weights, same input tensors.

    Intermediate results are printed on stderr after each contestant and each fold.
    """
    if input_px % _MULTIPLE_PX:
        raise click.BadParameter(f"must be a multiple of {_MULTIPLE_PX}", param_hint="--input-px")
    console = Console(stderr=True)
    started_s = time.monotonic()
    results: dict[str, list[FoldResult]] = {}
    with TemporaryDirectory(prefix="bench-peers-") as directory:
        contest = contest_from_folder(data, STAND_IN, None, input_px, Path(directory), console)
        photos = contest.dataset.photos
        for number, fold in enumerate(folds_by_part(photos, folds), start=1):
            for result in results_of_fold(contest, fold, console):
                results.setdefault(result.contestant, []).append(result)
                so_far = accuracy_from_results(results[result.contestant], photos).aucs[ALL_DEFECTS]
                seconds = time.monotonic() - started_s
                echo(f"{seconds:.0f} s: {result.contestant}, folds to {number}: {auc_text(so_far)}", err=True)
            if number < folds:
                echo_lines(_tables(results, photos), err=True)
    command = f"python -m tools.benchmarks.peers accuracy --data .../{data.resolve().name} --input-px {input_px}"
    echo_lines(heading(f"{command} --folds {folds}"))
    echo_lines(_tables(results, photos))
    echo(_settings(contest, folds))


def _tables(results: Mapping[str, Sequence[FoldResult]], photos: Sequence[Photo]) -> str:
    accuracies = [accuracy_from_results(found, photos) for found in results.values()]
    return f"{table_from_rows(accuracy_rows(accuracies))}\n{table_from_rows(contestant_rows(accuracies))}"


def _settings(contest: Contest, folds: int) -> str:
    layers = " and ".join(layers_of_backbone(contest.weights.backbone))
    parts = len({photo.part_id for photo in contest.dataset.photos})
    return (
        f"{contest.weights.backbone} ({contest.weights.source}), {contest.geometry.input_width_px} px, letterboxed. "
        f"{parts} parts: the {contest.given_parts} parts of the folder, joined if their photographs look alike "
        f"(`training/near_duplicates.py`). {folds} of {FOLDS} folds over the good parts (seed {SEED}): the bank is "
        "made from the good parts of the other folds; the fold's good parts and all defect parts are scored, with all "
        "their photographs except good ones of defect parts. A part's score is the mean over its photographs. Banks "
        f"use **one** photograph of each of at most {MAX_PEER_PHOTOS} good parts, because anomalib's coreset otherwise "
        'takes hours on a CPU; rows named "all photographs" use all, for anomalib only on a GPU. '
        f"anomalib: its PatchcoreModel, pooling and maps, {layers} at their native grid; by default "
        f"{DEFAULTS.share:.0%} of the patches and {DEFAULTS.neighbours} neighbours, with our settings as many rows as "
        "ours and 1 neighbour. Ours: the ONNX graph of `procunit export` in ONNX Runtime, FP32. Pixel AUROC is over "
        "the parts' pixels at the input size, averaged over the folds."
    )


if __name__ == "__main__":
    run_program(main, "bench-peers")
