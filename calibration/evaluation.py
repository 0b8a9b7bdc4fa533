"""The evaluation's JSON: its names and keys are a promise, so they are written down here as types."""

from __future__ import annotations

from edge.record import Record

Interval = tuple[float, float] | None


class _Figures(Record, allow_inf_nan=False):
    """Figures of the evaluation; not a number is refused."""


class AnomalyFigures(_Figures):
    """The anomaly score: all defects against good parts."""

    auc: float | None
    auc_ci95: Interval


class TypeFigures(_Figures):
    """One type against good parts, by its own score and by the anomaly score."""

    images: int
    parts: int
    head_auc: float | None
    head_auc_ci95: Interval
    anomaly_auc: float | None


class EscapeRate(_Figures):
    """The share of defects that pass."""

    escape_rate: float | None


class Figures(_Figures):
    """What is told by part and, again, by image; `verdicts` counts {truth: {verdict: units}}."""

    anomaly: AnomalyFigures
    types: dict[str, TypeFigures]
    verdicts: dict[str, dict[str, int]]
    at_false_alarm: dict[str, EscapeRate]
    size_only_auc: float | None


class Latency(_Figures):
    """Frame in memory to verdict, in milliseconds."""

    p50: float
    p95: float
    p99: float


class Evaluation(_Figures):
    """A labelled folder judged by a bundle; figures by part, None where the folder cannot tell."""

    bundle: str
    images: int
    parts: int
    skipped_images: int
    anomaly: AnomalyFigures
    types: dict[str, TypeFigures]
    verdicts: dict[str, dict[str, int]]
    at_false_alarm: dict[str, EscapeRate]
    within_part_agreement: float | None
    size_only_auc: float | None
    latency_ms: Latency
    by_image: Figures
