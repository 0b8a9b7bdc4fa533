"""Markdown for the terminal: results, machine, versions and command."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from edge.plain_text import plain
from tools.benchmarks.peers.children import Side
from tools.benchmarks.peers.figures import FALSE_ALARM_RATES, Accuracy, Auc
from tools.benchmarks.peers.race import Lap

_PACKAGES = ("procunit-edge", "torch", "timm", "onnxruntime", "numpy")


def heading(command: str) -> str:
    """Command, date, machine and package versions."""
    day = datetime.datetime.now(datetime.timezone.utc).date()
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"Measured on {day} by `{plain(command)}` ({len(os.sched_getaffinity(0))} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {packages}).\n"
    )


def table_from_rows(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its heading."""
    title, *body = (f"| {' | '.join(map(plain, row))} |" for row in rows)
    return "\n".join([title, "|" + "---|" * len(rows[0]), *body]) + "\n"


def race_rows(laps: Sequence[Lap]) -> list[tuple[str, ...]]:
    """Table rows, heading first: one for each side of each heat."""
    grouped: dict[tuple[int, Side], list[Lap]] = {}
    for lap in laps:
        grouped.setdefault((lap.points, lap.side), []).append(lap)
    rows: list[tuple[str, ...]] = [("side", "points", "rows", "seconds (each lap)", "peak MB", "covering radius")]
    for (points, side), group in grouped.items():
        seconds = ", ".join(f"{lap.seconds:.2f}" for lap in group)
        radii = ", ".join(f"{lap.covering_radius:.4f}" for lap in group)
        peak_mb = max(lap.peak_mb for lap in group)
        rows.append((f"{side} {group[0].version}", f"{points}", f"{group[0].rows}", seconds, f"{peak_mb:.0f}", radii))
    return rows


def accuracy_rows(accuracies: Sequence[Accuracy]) -> list[tuple[str, ...]]:
    """Table rows, heading first: AUROC by part of each type and contestant."""
    rows: list[tuple[str, ...]] = [("AUROC by part (95 %)", *(a.contestant for a in accuracies))]
    for name in accuracies[0].aucs:
        rows.append((name, *(auc_text(a.aucs[name]) for a in accuracies)))
    return rows


def contestant_rows(accuracies: Sequence[Accuracy]) -> list[tuple[str, ...]]:
    """Table rows, heading first: each contestant's bank, pixel AUROC and escapes."""
    rates = (f"escapes at {rate:.0%}" for rate in FALSE_ALARM_RATES)
    rows: list[tuple[str, ...]] = [("contestant", "ran on", "bank photographs", "bank rows", "pixel AUROC", *rates)]
    for a in accuracies:
        escapes = ("-" if rate is None else f"{rate:.1%}" for rate in a.escapes)
        pixels = "-" if a.pixel_auc is None else f"{a.pixel_auc:.4f}"
        rows.append((a.contestant, a.ran_on, f"{a.bank_photos:.0f}", f"{a.bank_rows:.0f}", pixels, *escapes))
    return rows


def auc_text(found: Auc) -> str:
    """AUROC and its interval; a dash if there are too few parts."""
    if found.value is None:
        return "-"
    interval = f" ({found.ci95[0]:.2f} to {found.ci95[1]:.2f})" if found.ci95 else ""
    return f"{found.value:.3f}{interval}"
