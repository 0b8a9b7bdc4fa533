"""JSON model of the metrics: what the device counts and measures of itself."""

from __future__ import annotations

from edge.bundle.manifest import Finite
from edge.contract.payloads import Payload
from edge.messages import Verdict


class Percentiles(Payload):
    """Latency percentiles of one stage over the newest parts, in milliseconds; None before the first part."""

    p50_ms: Finite | None
    p99_ms: Finite | None


class StageLatencies(Payload):
    """Percentiles of each stage of `ProcessingTimes`."""

    queue: Percentiles
    preprocess: Percentiles
    engine: Percentiles
    decide: Percentiles
    inspect: Percentiles


class DiskUse(Payload):
    """The file system that holds the state directory."""

    free_bytes: int
    total_bytes: int


class Metrics(Payload):
    """Counts since the start, latencies, disk and temperatures.

    `backlog` is the number of unsent messages, `quarantined` of messages that the broker refused permanently,
    `unstored` of verdicts that are only in memory, because the disk takes none, and `frames_dropped` of frames that
    were not stored, because the disk was too slow for them.
    `temperatures_c` has one entry per sensor; it is None, never 0, for a sensor that cannot be read.
    """

    device: str
    epoch: str
    creation_time: str
    uptime_s: Finite
    parts: dict[Verdict, int]
    latencies: StageLatencies
    backlog: int
    quarantined: int
    unstored: int = 0
    frames_dropped: int = 0
    disk: DiskUse | None
    temperatures_c: dict[str, Finite | None]
