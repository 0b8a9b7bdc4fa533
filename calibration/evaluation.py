"""The evaluation's JSON: its keys are a public interface, so they are defined here as types."""

from __future__ import annotations

from edge.record import Record

Interval = tuple[float, float] | None


class _Figures(Record, allow_inf_nan=False):
    """Figures of the evaluation; NaN and infinity are refused."""


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
    """The figures that exist by part and by image; `verdicts` counts {truth: {verdict: units}}."""

    anomaly: AnomalyFigures
    types: dict[str, TypeFigures]
    verdicts: dict[str, dict[str, int]]
    at_false_alarm: dict[str, EscapeRate]
    size_only_auc: float | None


class Latency(_Figures):
    """Percentiles of the time from frame in memory to verdict, in milliseconds."""

    p50: float
    p95: float
    p99: float


class Evaluation(_Figures):
    """The evaluation of a bundle on a labelled folder; figures by part, None if the folder lacks the parts for one."""

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
