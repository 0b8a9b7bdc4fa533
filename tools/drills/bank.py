"""Time and peak memory of building memory banks from 50, 500 and 5000 rendered photographs, each in a new process.

python -m tools.drills.bank                       # all three, about 10 minutes on 2 cores
python -m tools.drills.bank --sizes 50,500        # without the largest
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from edge.bundle.manifest import GOOD
from edge.cli.program import run_program
from edge.geometry import Geometry
from edge.terminal import Console, echo
from export.bank.memory_bank import build_memory_bank
from tools.benchmarks.good_parts_run import model_without_types, record_of_good_parts
from tools.line_simulator.writing import dataset_photos, write_dataset
from training.cli import DEFAULT_INPUT_PX
from training.data.dataset import dataset_from_folder
from training.weights import STAND_IN, trunk_weights

BANK_ROWS = 4096
SEED = 0
MAX_GROWTH = 1.5
"""How many times the memory of the second largest set the largest may take."""


@dataclass(frozen=True, slots=True)
class Building:
    """The cost and size of one bank."""

    photographs: int
    seconds: float
    peak_mb: float
    rows: int
    covering_radius: float


def built_from_folder(data: Path, photographs: int) -> Building:
    """Build the bank from the folder's first photographs, in this process."""
    dataset = dataset_from_folder(data)
    weights = trunk_weights(STAND_IN, None)
    geometry = Geometry(input_height_px=DEFAULT_INPUT_PX, input_width_px=DEFAULT_INPUT_PX)
    model = model_without_types(weights, geometry)
    record = record_of_good_parts(dataset, dataset.photos[:photographs], weights, geometry, SEED, "drill")
    started = time.monotonic()
    bank = build_memory_bank(model, record, BANK_ROWS, Console(stderr=True, quiet=True))
    seconds = time.monotonic() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Building(photographs, seconds, peak_mb, len(bank.rows), bank.covering_radius)


@click.command()
@click.option("--sizes", default="50,500,5000", show_default=True, help="Photographs per bank, separated by commas.")
def main(sizes: str) -> None:
    """Build banks of several sizes and print a Markdown table."""
    counts = [int(size) for size in sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="drill-bank-") as folder:
        data = Path(folder) / "parts"
        echo(f"rendering {max(counts)} parts", err=True)
        write_dataset(data, SEED, dataset_photos({GOOD: max(counts)}))
        built = []
        for count in counts:
            echo(f"bank of {count} photographs", err=True)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                built.append(alone.submit(built_from_folder, data, count).result())
    echo("| photographs | seconds | ms per photograph | peak memory, MB | rows | covering radius |")
    echo("|---|---|---|---|---|---|")
    for bank in built:
        each_ms = 1000 * bank.seconds / bank.photographs
        echo(
            f"| {bank.photographs} | {bank.seconds:.1f} | {each_ms:.0f} | {bank.peak_mb:.0f} | {bank.rows} | "
            f"{bank.covering_radius:.3f} |"
        )
    if len(built) > 1 and built[-1].peak_mb > MAX_GROWTH * built[-2].peak_mb:
        raise SystemExit("FAILED: memory grows with the number of photographs")


if __name__ == "__main__":
    run_program(main, "bank")
