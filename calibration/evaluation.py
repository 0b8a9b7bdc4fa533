"""The evaluation's JSON: its names and keys are a promise, so they are written down here as types."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float] | None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AnomalyFigures(_Record):
    """The anomaly score: all defects against good parts."""

    auc: float | None
    auc_ci95: Interval


class TypeFigures(_Record):
    """One type against good parts, by its own score and by the anomaly score."""

    images: int
    parts: int
    head_auc: float | None
    head_auc_ci95: Interval
    anomaly_auc: float | None


class EscapeRate(_Record):
    """The share of defects that pass."""

    escape_rate: float | None


class Figures(_Record):
    """What is told by part and, again, by image; `verdicts` counts {truth: {verdict: units}}."""

    anomaly: AnomalyFigures
    types: dict[str, TypeFigures]
    verdicts: dict[str, dict[str, int]]
    at_false_alarm: dict[str, EscapeRate]
    size_only_auc: float | None


class Latency(_Record):
    """Frame in memory to verdict, in milliseconds."""

    p50: float
    p95: float
    p99: float


class Evaluation(_Record):
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
