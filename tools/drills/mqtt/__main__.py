"""Drills of the broker connection. `python -m tools.drills.mqtt` runs all at full length, `--short` in minutes.

Exits with 1 if one fails.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from edge.cli.program import run_program
from edge.terminal import echo
from tools.drills.mqtt.count import Figure
from tools.drills.mqtt.inspection import inspection
from tools.drills.mqtt.kills import both_kills, broker_kills, daemon_kills, outage
from tools.drills.mqtt.lab import lab_missing
from tools.drills.mqtt.links import loss, partitions, slow_link

Drill = Callable[[Path, bool], Figure | list[Figure]]
DRILLS: dict[str, Drill] = {
    drill.__name__: drill
    for drill in (daemon_kills, broker_kills, both_kills, outage, partitions, loss, slow_link, inspection)
}
IN_LAB = {"partitions", "loss", "slow_link"}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(DRILLS)))
@click.option("--short", is_flag=True, help="A few seconds per drill.")
def main(names: tuple[str, ...], short: bool) -> None:
    """Run the drills NAMES, or all of them; prints one line per result."""
    failed = False
    for name in names or DRILLS:
        if name in IN_LAB and (needs := lab_missing()):
            echo(f"skipped {name}: it needs {needs}")
            continue
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="procunit-drill-") as folder:
            outcome = DRILLS[name](Path(folder), short)
        for figure in outcome if isinstance(outcome, list) else [outcome]:
            echo(f"{'passed' if figure.passed else 'FAILED'} {figure.drill}: {figure.text}")
            failed |= not figure.passed
        echo(f"        {name} took {time.monotonic() - started_s:.0f} s")
    sys.exit(failed)


if __name__ == "__main__":
    run_program(main, "drills.mqtt")
