"""Figures of a run of the line: pure functions of the received results and the parts' truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.binomial import lower_bound, upper_bound
from edge.bundle.manifest import GOOD
from edge.contract.payloads import Result
from edge.messages import Verdict
from edge.policy import logit

STAGES = {
    "queue": "queue_ms",
    "preprocess": "preprocess_ms",
    "engine": "engine_ms",
    "decide": "decide_ms",
    "frame to verdict": "inspect_ms",
}
"""The stages of an inspection and their keys in `processingTimes`; the last is the sum of all but the queue."""
INTERVAL_CONFIDENCE = 0.95
ANOMALY = "anomaly"
"""The name for a part that is unlike the good ones and like no taught type."""


@dataclass(frozen=True)
class Delivery:
    """Triggers compared with results: there must be exactly one result per trigger.

    `repeats` counts further copies of a message with the same (device, epoch, seq), which MQTT's QoS 1 allows.
    `missing` and `doubled` are the counters of triggers without a result and with more than one; `conflicting` are
    result ids whose copies differ; `strange` are counters without a trigger.
    """

    triggers: int
    messages: int
    results: int
    repeats: int
    missing: tuple[int, ...]
    doubled: tuple[int, ...]
    conflicting: tuple[str, ...]
    strange: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether every trigger has exactly one result."""
        return not (self.missing or self.doubled or self.conflicting or self.strange)


@dataclass(frozen=True)
class TruthRow:
    """The photographs of one truth: their verdicts, and the first reasons given for the flagged ones (`called`)."""

    truth: str
    photographs: int
    verdicts: Mapping[Verdict, int]
    called: Mapping[str, int]

    @property
    def is_good(self) -> bool:
        """Whether these parts have no defect."""
        return self.truth == GOOD


@dataclass(frozen=True)
class FalseAlarms:
    """Good parts that were rejected or sent to review for any photograph, and the exact interval of the rate."""

    good_parts: int
    flagged_parts: int
    low: float
    high: float


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of one stage's times in milliseconds."""

    p50: float
    p95: float
    p99: float


def distinct_results(received: Sequence[Result]) -> list[Result]:
    """The first copy of every result, by (device, epoch, seq)."""
    first: dict[tuple[str, str, int], Result] = {}
    for result in received:
        first.setdefault((result.device, result.epoch, result.seq), result)
    return list(first.values())


def delivery_of(received: Sequence[Result], triggers: int) -> Delivery:
    """Compare the received results with the triggers, whose counters are 1 to `triggers`."""
    results = distinct_results(received)
    originals = {(r.device, r.epoch, r.seq): r for r in results}
    conflicting = {r.result_id for r in received if originals[(r.device, r.epoch, r.seq)] != r}
    seen = Counter(result.counter for result in results)
    expected = range(1, triggers + 1)
    return Delivery(
        triggers=triggers,
        messages=len(received),
        results=len(results),
        repeats=len(received) - len(results),
        missing=tuple(counter for counter in expected if counter not in seen),
        doubled=tuple(sorted(counter for counter, times in seen.items() if times > 1)),
        conflicting=tuple(sorted(conflicting)),
        strange=tuple(sorted(counter for counter in seen if counter not in expected)),
    )


def rows_by_truth(results: Sequence[Result], truth_of: Mapping[int, str]) -> list[TruthRow]:
    """Verdicts per truth, good parts first; `truth_of` maps a trigger's counter to `good` or a defect type."""
    known = [(truth_of[result.counter], result) for result in results if result.counter in truth_of]
    rows = []
    for truth in sorted({truth for truth, _ in known}, key=lambda name: (name != GOOD, name)):
        own = [result for label, result in known if label == truth]
        called = Counter(name for result in own if (name := first_reason(result)) is not None)
        rows.append(TruthRow(truth, len(own), Counter(result.verdict for result in own), called))
    return rows


def first_reason(result: Result) -> str | None:
    """Why a part was flagged: the type that is farthest above its threshold, else `anomaly`; None if not flagged."""
    if result.verdict in (Verdict.PASS, Verdict.NOT_INSPECTED):
        return None
    beyond = {
        reason.defect_type: logit(reason.score) - logit(reason.threshold)
        for reason in result.why
        if reason.defect_type is not None and reason.score is not None and reason.threshold is not None
    }
    return max(beyond, key=lambda name: beyond[name]) if beyond else ANOMALY


def false_alarms(results: Sequence[Result], truth_of: Mapping[int, str]) -> FalseAlarms | None:
    """Flagged good parts, counted by part like the bundle's budget; None if no good part was inspected."""
    inspected = [r for r in results if truth_of.get(r.counter) == GOOD and r.verdict is not Verdict.NOT_INSPECTED]
    good = len({result.part_id for result in inspected})
    flagged = len({result.part_id for result in inspected if result.verdict is not Verdict.PASS})
    if not good:
        return None
    one_sided = (1 + INTERVAL_CONFIDENCE) / 2
    return FalseAlarms(good, flagged, lower_bound(flagged, good, one_sided), upper_bound(flagged, good, one_sided))


def stage_percentiles(results: Sequence[Result]) -> dict[str, Percentiles]:
    """p50, p95 and p99 of each stage over the inspected parts; empty if no part was inspected."""
    times = [result.processing_times for result in results if result.verdict is not Verdict.NOT_INSPECTED]
    if not times:
        return {}
    table = np.array([[getattr(time, key) for key in STAGES.values()] for time in times])
    p50, p95, p99 = np.percentile(table, (50, 95, 99), axis=0)
    return {stage: Percentiles(float(p50[i]), float(p95[i]), float(p99[i])) for i, stage in enumerate(STAGES)}
