"""`procunit calibrate`, `procunit seed run` and `procunit evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from calibration.calibrate import calibrate_run
from calibration.limits import parts_needed
from edge.manifest import NO_BUDGET, Budget


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--budget",
    "asked_rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="Share of good parts that may be flagged, such as 0.01.  [default: the smallest that the parts support]",
)
def calibrate(run: Path, asked_rate: float | None) -> None:
    """Set the thresholds of RUN from its held-out good parts, by one false-alarm budget for all scores.

    \b
    Examples:
      procunit calibrate run/
      procunit calibrate run/ --budget 0.01
    """
    record = calibrate_run(run, asked_rate)
    for line in budget_lines(record.budget, asked_rate):
        click.echo(line)
    for name, limit in record.types.items():
        click.echo(f"  {name}: flagged from {limit.threshold:.4f} on")
    if record.anomaly is not None:
        click.echo(f"  anomaly: flagged from {record.anomaly.threshold:.4f} on")


def budget_lines(budget: Budget | None, asked_rate: float | None) -> list[str]:
    """What the held-out good parts support, what was asked, and what it would take, in words."""
    if budget is None:
        return [f"False alarms: {NO_BUDGET}.", "Add photographs of good parts and train again."]
    lines = []
    if asked_rate is not None:
        lines.append(f"Budget asked: at most {asked_rate:.2%} of good parts flagged.")
    lines.append(f"Budget supported: {budget.in_words()}.")
    if asked_rate is not None and budget.false_alarm_rate > asked_rate:
        lines.append(
            f"The parts do not support what was asked: {parts_needed(asked_rate)} held-out good parts are needed, "
            f"{budget.good_parts} are there. The smallest budget they support is used."
        )
    return lines
