"""The summary at the end: tables on the terminal, and the same figures as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from edge.bundle.manifest import Budget
from edge.messages import Verdict
from tools.demo.summary import ANOMALY, INTERVAL_CONFIDENCE, Delivery, FalseAlarms, Percentiles, TruthRow


@dataclass(frozen=True)
class Report:
    """The content of the summary."""

    delivery: Delivery
    triggers_from: str
    truths: list[TruthRow]
    alarms: FalseAlarms | None
    budget: Budget | None
    latency: dict[str, Percentiles]
    paths: dict[str, Path]


def print_report(report: Report, console: Console) -> None:
    """Print the summary."""
    _print_delivery(report, console)
    _print_truths(report.truths, console)
    console.print(_alarm_text(report.alarms, report.budget))
    _print_latency(report.latency, console)
    for name, path in report.paths.items():
        console.print(f"{name + ':':<12}{path}", highlight=False, soft_wrap=True)


def write_report(report: Report, path: Path) -> None:
    """Write the figures of the summary as JSON."""
    figures = {
        "delivery": {**asdict(report.delivery), "holds": report.delivery.holds},
        "truths": {
            row.truth: {
                "photographs": row.photographs,
                "verdicts": {verdict.value: count for verdict, count in row.verdicts.items()},
                "called": dict(row.called),
            }
            for row in report.truths
        },
        "false_alarms": asdict(report.alarms) if report.alarms else None,
        "budget": report.budget.model_dump() if report.budget else None,
        "latency_ms": {stage: asdict(percentiles) for stage, percentiles in report.latency.items()},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _print_delivery(report: Report, console: Console) -> None:
    delivery = report.delivery
    equal = "equal" if delivery.triggers == delivery.results else "NOT EQUAL"
    console.print(f"Triggers:  {delivery.triggers} ({report.triggers_from})", soft_wrap=True)
    console.print(
        f"Results:   {delivery.results} distinct by (device, epoch, seq), received by an independent subscriber in "
        f"{delivery.messages} messages, {delivery.repeats} of them repeated: {equal}"
    )
    if delivery.holds:
        console.print("exactly one result for every trigger", style="green")
    for name in ("missing", "doubled", "conflicting", "strange"):
        values = getattr(delivery, name)
        if values:
            console.print(f"{name}: {len(values)}, such as {', '.join(map(str, values[:10]))}", style="bold red")


def _print_truths(truths: list[TruthRow], console: Console) -> None:
    verdicts = {verdict.value.replace("_", " "): verdict for verdict in Verdict}
    console.print("Verdicts compared with the truth (only parts not used for training)")
    table = _table("truth", "photos", *verdicts)
    for row in truths:
        counts = [row.verdicts.get(verdict, 0) for verdict in verdicts.values()]
        table.add_row(row.truth, str(row.photographs), *map(str, counts))
    console.print(table)
    names = sorted({name for row in truths for name in row.called}, key=lambda name: (name == ANOMALY, name))
    if names:
        console.print("First reason given for flagged parts")
        table = _table("truth", *names)
        for row in truths:
            table.add_row(row.truth, *(str(row.called.get(name, 0)) for name in names))
        console.print(table)


def _alarm_text(alarms: FalseAlarms | None, budget: Budget | None) -> str:
    if alarms is None:
        return "False alarms: not known, because no good part was inspected"
    rate = alarms.flagged_parts / alarms.good_parts
    interval = f"{INTERVAL_CONFIDENCE:.0%} interval {alarms.low:.1%} to {alarms.high:.1%}"
    text = f"False alarms: {alarms.flagged_parts} of {alarms.good_parts} good parts = {rate:.1%} ({interval})"
    if budget is None:
        return f"{text}; the bundle has no false-alarm budget, because it had no good parts to compute one"
    verdict = "above the budget" if alarms.low > budget.false_alarm_rate else "within the budget"
    return f"{text}; {verdict} of at most {budget.false_alarm_rate:.1%} (with {budget.confidence:.0%} confidence)"


def _print_latency(latency: dict[str, Percentiles], console: Console) -> None:
    console.print("Latency per stage, in ms")
    table = _table("stage", "p50", "p95", "p99")
    for stage, times in latency.items():
        table.add_row(stage, f"{times.p50:.1f}", f"{times.p95:.1f}", f"{times.p99:.1f}")
    console.print(table)


def _table(row_names: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(row_names)
    for column in columns:
        table.add_column(column, justify="right")
    return table
