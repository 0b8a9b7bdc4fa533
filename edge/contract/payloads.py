"""JSON models of the messages that the device publishes: results, events, status and metrics.

Names follow OPC 40100-1 (machine vision) where it defines one; `resultEvaluation` follows OPC 40001-101. A receiver
recognises a repeated message by (device, epoch, seq). Within v1 fields are only added, each with a default, so that
messages stored by an older version can still be sent.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from edge.bundle.manifest import Finite, Share
from edge.contract.encoding import MAX_TEXT, clean_text
from edge.faults import FaultId, Severity
from edge.messages import Authority, Decision, NotInspected, Verdict

MAX_PAYLOAD_BYTES = 16_000
"""Largest result or event; brokers and MES accept this size everywhere."""
_KEPT_TYPES, _KEPT_REASONS = 8, 4

SHOWN_VERDICTS = (Verdict.REJECT, Verdict.REVIEW)
"""Verdicts whose frames are published with the result."""

ReviewAction = Literal["divert", "hold", "pass_and_flag"]
"""What the line does with a part whose verdict is `review`."""

CommandOutcome = Literal["done", "refused", "failed"]
"""Outcome of a command: executed, not admitted, or admitted but failed."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]
StateId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""The random id of a device's record of signed commands; a new one if that record is lost."""


class ResultEvaluation(IntEnum):
    """OPC 40001-101: `review` is NOT_DECIDABLE, `not_inspected` is UNDEFINED."""

    UNDEFINED = 0
    OK = 1
    NOT_OK = 2
    NOT_DECIDABLE = 3


class ResultState(IntEnum):
    """OPC 40100-1: a part that was not inspected has a FAILED result."""

    COMPLETED = 1
    FAILED = 4


class Payload(BaseModel):
    """Base of all messages: camel case in JSON; a reader ignores fields that a newer sender added."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


class ProcessingTimes(Payload):
    """Milliseconds per stage; `inspect_ms` is from the frame in memory to the verdict, without the queue."""

    queue_ms: Finite
    preprocess_ms: Finite
    engine_ms: Finite
    decide_ms: Finite
    inspect_ms: Finite


class WhyPayload(Payload):
    """One reason for the verdict."""

    scorer: Literal["head", "anomaly", "system"]
    defect_type: Text | None
    score: Finite | None
    threshold: Finite | None
    authority: Authority | None
    text: Text


class ScoreSet(Payload):
    """One number per defect type (sigmoid) and one for the anomaly (distance); None for NaN or infinity."""

    types: dict[str, Finite | None]
    anomaly: Finite | None


class BundleRef(Payload):
    """The bundle that inspected the part, and the version of its memory bank; 0 is the bank in the bundle."""

    id: str
    product: str
    version: int
    bank_version: int = 0


class ImageRef(Payload):
    """The frame, and the heatmap of its scores if it has scores; each may be published on its topic as a JPEG."""

    frame_id: Text
    topic: str
    heatmap_topic: str | None = None


class Result(Payload):
    """The verdict on one trigger.

    `thresholds` are exact; scores are rounded to 6 significant digits, except if rounding would cross the threshold.
    `is_partial` is true if only the highest of very many type scores are included. `review_action` is the plant's
    setting for parts whose verdict is `review`, whatever this verdict is. `internal_recipe_id` is the bundle's id.
    `internal_configuration_id` changes with any threshold, authority, audit rate, memory bank or review action.
    `job_id` is None if no job is known. `backfill` is true for a result that was stored before the connection, or is
    sent again on request.
    """

    result_id: str
    device: str
    epoch: str
    seq: int
    counter: int
    frame_id: Text
    part_id: Text | None
    trigger_time: str
    creation_time: str
    processing_times: ProcessingTimes
    result_state: ResultState
    result_evaluation: ResultEvaluation
    verdict: Verdict
    not_inspected: NotInspected | None
    is_simulated: bool
    is_partial: bool = False
    review_action: ReviewAction | None
    audit: bool
    why: tuple[WhyPayload, ...]
    scores: ScoreSet | None
    thresholds: ScoreSet
    authority: dict[str, Authority]
    bundle: BundleRef
    image: ImageRef | None
    product_id: Text | None = None
    job_id: Text | None = None
    internal_recipe_id: str | None = None
    internal_configuration_id: str | None = None
    backfill: bool = False


class CommandRecord(Payload):
    """The audit record of one command; `signed_by` is the name of the key that verified its signature, or None."""

    name: str
    cmd_id: str | None
    by: Text | None
    signed_by: Text | None
    outcome: CommandOutcome


class Event(Payload):
    """A fault, with the texts of the fault table, or the audit of a command, with `command` set."""

    event_id: str
    device: str
    epoch: str
    creation_time: str
    fault: FaultId
    severity: Severity
    text: str
    action: str
    detail: str
    command: CommandRecord | None = None


class Status(Payload):
    """The device's state; retained. The broker publishes `offline` (the will) if the connection breaks.

    `activity` is what the device is doing now, `progress` the share done, 0 to 1 (building an engine takes minutes).
    A signed command carries `state_id` and a counter above `command_counter`, the highest one accepted; both are None
    while the device is offline.
    `faults` are the ids of the faults that are active, the oldest first, without those of severity `info`; it does not
    wait for the disk, as events do. It is empty in `offline`, where they are not known.
    """

    device: str
    epoch: str
    state: Literal["starting", "running", "stopped", "offline"]
    time: str | None
    version: str
    activity: Text | None = None
    progress: Share | None = None
    state_id: StateId | None = None
    command_counter: Annotated[int, Field(ge=0)] | None = None
    faults: tuple[FaultId, ...] = ()


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


def shows_frame(decision: Decision) -> bool:
    """Whether the frame is published with the result: for rejected, review and audited parts."""
    return decision.verdict in SHOWN_VERDICTS or decision.audit


def event_from_fault(
    fault_id: FaultId,
    detail: str,
    *,
    device: str,
    epoch: str,
    created_at_utc: str,
    command: CommandRecord | None = None,
) -> Event:
    """The event for a fault, or for a `command`; `detail` is the specific text that the fault table does not have."""
    fault = fault_id.fault
    return Event(
        event_id=uuid4().hex,
        device=device,
        epoch=epoch,
        creation_time=created_at_utc,
        fault=fault_id,
        severity=fault.severity,
        text=fault.text,
        action=fault.action,
        detail=clean_text(detail, 4 * MAX_TEXT),
        command=command,
    )


def bytes_from_payload(payload: Payload) -> bytes:
    """The message's JSON in UTF-8; a result or an event has at most `MAX_PAYLOAD_BYTES`.

    A result with very many types keeps only its highest scores and is marked as partial.
    """
    data = payload.model_dump_json(by_alias=True).encode()
    if len(data) > MAX_PAYLOAD_BYTES and isinstance(payload, Result):
        data = _partial(payload).model_dump_json(by_alias=True).encode()
    return data


def _partial(result: Result) -> Result:
    """The same result with only its highest type scores and first reasons, rejecting reasons before reviewing ones."""
    scores = (result.scores or result.thresholds).types
    kept = sorted(scores, key=lambda name: -(scores[name] or 0.0))[:_KEPT_TYPES]
    return result.model_copy(
        update={
            "is_partial": True,
            "why": tuple(sorted(result.why, key=lambda reason: reason.authority == "review"))[:_KEPT_REASONS],
            "scores": result.scores and _only_types(result.scores, kept),
            "thresholds": _only_types(result.thresholds, kept),
            "authority": {name: result.authority[name] for name in kept},
        }
    )


def _only_types(values: ScoreSet, names: list[str]) -> ScoreSet:
    return ScoreSet(types={name: values.types[name] for name in names}, anomaly=values.anomaly)
