"""`python -m tools.line_simulator`: renders a labelled dataset or a run of the line."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.progress import track

from edge.cli.program import run_program
from edge.terminal import Console, echo
from tools.line_simulator.part import GOOD
from tools.line_simulator.schedule import line_schedule
from tools.line_simulator.writing import dataset_photos, write_dataset, write_line

_OUT = click.Path(file_okay=False, path_type=Path)
_COUNT = click.IntRange(min=0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Render stamped sheet-metal parts under a ring light, with scratches, edge cracks, dents and coating skips."""


@main.command()
@click.option("--out", type=_OUT, required=True, help="Folder to create; it must not exist.")
@click.option("--seed", type=_COUNT, default=7, help="The same seed renders the same bytes.")
@click.option("--good", type=_COUNT, default=480, help="Good parts.")
@click.option("--scratch", type=_COUNT, default=60, help="Scratched parts.")
@click.option("--dent", type=_COUNT, default=44, help="Dented parts.")
@click.option("--edge-crack", type=_COUNT, default=44, help="Parts cracked from an edge.")
@click.option(
    "--coating-skip", type=_COUNT, default=16, help="Parts with missing coating; 16 are too few for authority."
)
def dataset(out: Path, seed: int, **counts: int) -> None:
    """Render a labelled dataset: good/, one folder per type, masks/ and parts.csv.

    \b
    Examples:
      python -m tools.line_simulator dataset --out work/parts
      python -m tools.line_simulator dataset --out work/good-only --scratch 0 --dent 0 --edge-crack 0 --coating-skip 0
    """
    photos = dataset_photos(counts)
    if not photos:
        raise click.UsageError("every count is 0, so there is nothing to render")
    write_dataset(out, seed, track(photos, "Rendering parts", console=_console()))
    defects = len(photos) - counts[GOOD]
    echo(f"{out}: {counts[GOOD]} good and {defects} defective parts")


@main.command()
@click.option("--out", type=_OUT, required=True, help="Folder to create; it must not exist.")
@click.option("--seed", type=_COUNT, default=8, help="The same seed renders the same bytes.")
@click.option("--parts", type=click.IntRange(min=1), default=120, help="Parts in the run.")
@click.option("--defect-rate", type=click.FloatRange(0, 1), default=0.1, help="Share of defects outside bursts.")
@click.option("--bursts", type=_COUNT, default=1, help="Bursts of one defect type, as from a worn tool.")
@click.option("--burst-length", type=click.IntRange(min=1), default=5, help="Consecutive parts in a burst.")
@click.option("--parts-per-min", type=click.FloatRange(min=1), default=120.0, help="Mean rate of arrivals.")
def line(
    out: Path, seed: int, parts: int, defect_rate: float, bursts: int, burst_length: int, parts_per_min: float
) -> None:
    """Render a run of the line: images/ and line.csv (file, part_id, arrival_s, truth), in order of arrival.

    \b
    Examples:
      python -m tools.line_simulator line --out work/line --seed 8 --parts 120
      python -m tools.line_simulator line --out work/bad-shift --defect-rate 0.2 --bursts 3 --burst-length 8
    """
    if bursts > parts:
        raise click.UsageError("more bursts than parts")
    schedule = line_schedule(
        seed=seed,
        parts=parts,
        defect_rate=defect_rate,
        bursts=bursts,
        burst_length=burst_length,
        parts_per_min=parts_per_min,
    )
    write_line(out, seed, track(schedule, "Rendering the line", console=_console()))
    defects = sum(part.truth != GOOD for part in schedule)
    echo(f"{out}: {parts} parts in {schedule[-1].arrival_s:.0f} s, {defects} of them defective")


def _console() -> Console:
    return Console(stderr=True, quiet=not sys.stderr.isatty())


if __name__ == "__main__":
    run_program(main, "line_simulator")
