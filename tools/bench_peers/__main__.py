"""`python -m tools.bench_peers coreset` and `... accuracy --data DIR`: Markdown on stdout, progress on stderr."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from edge.errors import ProcunitError
from tools.bench_peers.contest import DEFAULTS, layers_of_backbone, results_of_fold
from tools.bench_peers.figures import FoldResult, accuracy_from_results
from tools.bench_peers.photographs import FOLDS, MAX_PEER_PHOTOS, SEED, Contest, contest_from_folder, folds_by_part
from tools.bench_peers.points import FEATURES
from tools.bench_peers.race import HEATS, laps_of_heat
from tools.bench_peers.report import accuracy_rows, contestant_rows, heading, race_rows, table_from_rows
from training.weights import STAND_IN

INPUT_PX = 320


@click.group()
def main() -> None:
    """Our PatchCore beside anomalib's."""


@main.command()
def coreset() -> None:
    """Race both sides' greedy k-center over the same points; ours alone over a million."""
    with TemporaryDirectory(prefix="bench-peers-") as directory:
        laps = [lap for heat in HEATS for lap in laps_of_heat(heat, Path(directory))]
    click.echo(heading("python -m tools.bench_peers coreset"))
    click.echo(table_from_rows(race_rows(laps)))
    click.echo(
        f"Drawn clusters of {FEATURES} features, float32. Each lap is a process of its own, on all cores; the sides "
        "take turns. Seconds are the choice alone, anomalib's random projection in it as by default. Peak MB is the "
        "process's with the points. Covering radii are over all points, in all features, in float64: smaller is better."
    )


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of good/ and one folder a type.")
@click.option("--folds", type=click.IntRange(1, FOLDS), default=FOLDS, show_default=True, help="How many are run.")
def accuracy(data: Path, folds: int) -> None:
    """Judge a labelled folder by both sides: same backbone, same weights, same input tensors."""
    console = Console(stderr=True)
    results: dict[str, list[FoldResult]] = {}
    with TemporaryDirectory(prefix="bench-peers-") as directory:
        contest = contest_from_folder(data, STAND_IN, None, INPUT_PX, Path(directory), console)
        for number, fold in enumerate(folds_by_part(contest.dataset.photos, folds), start=1):
            console.print(f"Fold {number} of {folds}")
            for result in results_of_fold(contest, fold, console):
                results.setdefault(result.contestant, []).append(result)
    accuracies = [accuracy_from_results(found, contest.dataset.photos) for found in results.values()]
    click.echo(heading(f"python -m tools.bench_peers accuracy --data .../{data.resolve().name} --folds {folds}"))
    click.echo(table_from_rows(accuracy_rows(accuracies)))
    click.echo(table_from_rows(contestant_rows(accuracies)))
    click.echo(_settings(contest, folds))


def _settings(contest: Contest, folds: int) -> str:
    layers = " and ".join(layers_of_backbone(contest.weights.backbone))
    return (
        f"{contest.weights.backbone} ({contest.weights.source}), {INPUT_PX} px, letterboxed, in all. {folds} of "
        f"{FOLDS} folds over the good parts (seed {SEED}): the bank is made of the others', judged are its own and all "
        "defect parts, with all their photographs, good ones of defect parts excepted; a part's score is the mean of "
        f"its photographs'. Banks are made of **one** photograph of each of at most {MAX_PEER_PHOTOS} good parts, as "
        "anomalib's choice of rows takes hours otherwise, except where all are named. "
        f"anomalib: its PatchcoreModel, pooling and maps, {layers} at their native grid; by default "
        f"{DEFAULTS.share:.0%} of the patches and {DEFAULTS.neighbours} neighbours, at our settings as many rows as "
        "ours and 1 neighbour. Ours: `procunit export`'s ONNX graph in ONNX Runtime, FP32. Pixel AUROC is over the "
        "parts' pixels at the input's size, the mean of the folds."
    )


if __name__ == "__main__":
    try:
        main()
    except ProcunitError as error:
        raise SystemExit(f"bench-peers: {error}") from error
