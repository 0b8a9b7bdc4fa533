"""Seeded runs and evaluations as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from calibration.evaluation import Evaluation, Interval
from edge.binomial import lower_bound, upper_bound
from edge.bundle.manifest import DefectType
from edge.messages import Verdict
from edge.policy import earned_authority


def seeded_table(types: tuple[DefectType, ...], *, demo_key: bool) -> Group:
    """Each type's result in its seeded run and its authority; below, the reason and what is still missing."""
    table = Table("Type", "Parts detected", "Good parts rejected", "Authority", box=box.SIMPLE)
    reasons = []
    for t in types:
        run = t.seeded
        if run is None:
            continue
        _, reason = earned_authority(t, demo_key=demo_key)
        at_least = lower_bound(run.detected, run.parts, run.confidence)
        up_to = upper_bound(run.false_rejects, run.good_parts, run.confidence)
        table.add_row(
            t.name,
            f"{run.detected} of {run.parts} (at least {at_least:.1%})",
            f"{run.false_rejects} of {run.good_parts} (up to {up_to:.1%})",
            t.authority,
        )
        reasons.append(f"  {t.name}: {reason}")
    return Group(table, *reasons)


def score_table(evaluation: Evaluation) -> Table:
    """AUC by part of every score, and of image size alone for comparison."""
    table = Table("AUC by part", "Images", "Parts", "Head", "Anomaly", box=box.SIMPLE)
    for name, t in evaluation.types.items():
        table.add_row(
            name,
            str(t.images),
            str(t.parts),
            Text(_number(t.head_auc) + _interval(t.head_auc_ci95), no_wrap=True),
            _number(t.anomaly_auc),
        )
    anomaly = evaluation.anomaly
    table.add_row("all defects", "", "", "", Text(_number(anomaly.auc) + _interval(anomaly.auc_ci95), no_wrap=True))
    table.add_row("image size alone", "", "", *[_number(evaluation.size_only_auc)] * 2)
    return table


def verdict_table(evaluation: Evaluation) -> Table:
    """Verdicts by part against the truth; a part's verdict is the severest of its photographs."""
    table = Table("Parts", *(verdict.value for verdict in Verdict), box=box.SIMPLE)
    for truth, counts in evaluation.verdicts.items():
        table.add_row(truth, *(str(counts[verdict.value]) for verdict in Verdict))
    return table


def closing_lines(evaluation: Evaluation) -> list[str]:
    """Escape rates, agreement within parts and latency, as sentences."""
    lines = [
        f"With {float(rate):.0%} of good parts flagged, {_share(at.escape_rate)} of defect parts pass."
        for rate, at in evaluation.at_false_alarm.items()
    ]
    lines.append(f"Parts whose photographs all have the same verdict: {_share(evaluation.within_part_agreement)}.")
    ms = evaluation.latency_ms
    lines.append(f"Frame to verdict: p50 {ms.p50:.1f} ms, p95 {ms.p95:.1f} ms, p99 {ms.p99:.1f} ms.")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(interval: Interval) -> str:
    return "" if interval is None else f" ({interval[0]:.2f}-{interval[1]:.2f})"


def _share(value: float | None) -> str:
    return "(not known)" if value is None else f"{value:.1%}"
