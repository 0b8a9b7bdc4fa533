"""What is on the wire: JSON models of results, events and the status, and how they are made.

Names follow OPC 40100-1 (machine vision) where it has one; `resultEvaluation` follows OPC 40001-101. A receiver
recognises a repeated message by (device, epoch, seq).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from edge.faults import FAULTS, FaultId, Severity
from edge.messages import Authority, Decision, Inspection, NotInspected, Scores, Timings, Verdict, Why
from edge.policy import Policy
from edge.wire import MAX_TEXT, clean_text, frame_topic, result_id, rounded_score

MAX_PAYLOAD_BYTES = 16_000
"""No result or event is larger: brokers and an MES take it anywhere."""
_KEPT_TYPES, _KEPT_REASONS = 8, 4

ReviewAction = Literal["divert", "hold", "pass_and_flag"]
"""What happens at the line to a part whose verdict is `review`."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


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


class _Payload(BaseModel):
    """Camel case on the wire; fields that a newer sender adds are ignored by an older receiver."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


class ProcessingTimes(_Payload):
    """Where the part's time went; `inspect_ms` is frame in memory to verdict, without the queue."""

    queue_ms: Number
    preprocess_ms: Number
    engine_ms: Number
    decide_ms: Number
    inspect_ms: Number


class WhyPayload(_Payload):
    """One reason of the verdict."""

    scorer: Literal["head", "anomaly", "system"]
    defect_type: Text | None
    score: Number | None
    threshold: Number | None
    authority: Authority | None
    text: Text


class ScoreSet(_Payload):
    """One number a defect type (sigmoid) and one for the anomaly (distance); None where it is no finite number."""

    types: dict[str, Number | None]
    anomaly: Number | None


class BundleRef(_Payload):
    """The bundle that judged the part."""

    id: str
    product: str
    version: int


class ImageRef(_Payload):
    """The frame that follows on a topic of its own, as a JPEG."""

    frame_id: Text
    topic: str


class Result(_Payload):
    """The verdict on one trigger.

    `thresholds` are exact; scores are rounded to 6 significant digits, except where rounding would cross the threshold.
    `is_partial` says that only the highest of very many type scores are given.
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


class Event(_Payload):
    """Something a person should know of: a fault, told with the words of the table of faults."""

    event_id: str
    device: str
    epoch: str
    creation_time: str
    fault: FaultId
    severity: Severity
    text: str
    action: str
    detail: str


class Status(_Payload):
    """Whether the device is there; retained. `offline` is the broker's word for a device that vanished."""

    device: str
    epoch: str
    state: Literal["running", "stopped", "offline"]
    time: str | None
    version: str


@dataclass(frozen=True)
class ResultContext:
    """What is the same for every result between two starts.

    `root` is the root of the device's topics; `simulated` marks replayed frames.
    """

    device: str
    epoch: str
    root: str
    bundle: BundleRef
    policy: Policy
    review_action: ReviewAction
    simulated: bool


def shows_frame(decision: Decision) -> bool:
    """Whether the frame is published too: what a person will look at, or what was rejected."""
    return decision.verdict in (Verdict.REJECT, Verdict.REVIEW) or decision.audit


def result_from_inspection(inspection: Inspection, context: ResultContext) -> Result:
    """The result message of an inspection."""
    trigger, decision, policy = inspection.trigger, inspection.decision, context.policy
    identity = result_id(context.epoch, trigger.seq)
    inspected = decision.verdict is not Verdict.NOT_INSPECTED
    image = None
    if trigger.frame is not None and shows_frame(decision):
        image = ImageRef(frame_id=clean_text(trigger.frame_id), topic=f"{context.root}/{frame_topic(identity)}")
    return Result(
        result_id=identity,
        device=context.device,
        epoch=context.epoch,
        seq=trigger.seq,
        counter=trigger.counter,
        frame_id=clean_text(trigger.frame_id),
        part_id=None if trigger.part_id is None else clean_text(trigger.part_id),
        trigger_time=trigger.triggered_at_utc,
        creation_time=inspection.decided_at_utc,
        processing_times=_times(inspection.timings),
        result_state=ResultState.COMPLETED if inspected else ResultState.FAILED,
        result_evaluation=_EVALUATIONS[decision.verdict],
        verdict=decision.verdict,
        not_inspected=decision.not_inspected,
        is_simulated=context.simulated,
        review_action=context.review_action if decision.verdict is Verdict.REVIEW else None,
        audit=decision.audit,
        why=tuple(_why(reason) for reason in decision.why),
        scores=_score_set(inspection.scores, policy),
        thresholds=_threshold_set(policy),
        authority={rule.name: rule.authority for rule in policy.types},
        bundle=context.bundle,
        image=image,
    )


def event_from_fault(fault_id: FaultId, detail: str, *, device: str, epoch: str, created_at_utc: str) -> Event:
    """The event that tells of a fault; `detail` is what the table cannot know."""
    fault = FAULTS[fault_id]
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
    )


def bytes_from_payload(payload: Result | Event | Status) -> bytes:
    """The message's JSON in UTF-8, at most `MAX_PAYLOAD_BYTES` long.

    A result of very many types keeps its highest scores and is marked as partial.
    """
    data = payload.model_dump_json(by_alias=True).encode()
    if len(data) > MAX_PAYLOAD_BYTES and isinstance(payload, Result):
        data = _partial(payload).model_dump_json(by_alias=True).encode()
    return data


_EVALUATIONS = {
    Verdict.PASS: ResultEvaluation.OK,
    Verdict.REJECT: ResultEvaluation.NOT_OK,
    Verdict.REVIEW: ResultEvaluation.NOT_DECIDABLE,
    Verdict.NOT_INSPECTED: ResultEvaluation.UNDEFINED,
}


def _times(timings: Timings) -> ProcessingTimes:
    names = ProcessingTimes.model_fields
    return ProcessingTimes.model_validate({name: round(getattr(timings, name), 3) for name in names})


def _why(reason: Why) -> WhyPayload:
    score = reason.score
    if score is not None and reason.threshold is not None:
        score = rounded_score(score, reason.threshold)
    return WhyPayload(
        scorer=reason.scorer,
        defect_type=reason.defect_type,
        score=score,
        threshold=reason.threshold,
        authority=reason.authority,
        text=clean_text(reason.text),
    )


def _score_set(scores: Scores | None, policy: Policy) -> ScoreSet | None:
    if scores is None or len(scores.type_scores) != len(policy.types):
        return None
    anomaly_threshold = policy.anomaly.threshold if policy.anomaly else None
    return ScoreSet(
        types={
            rule.name: rounded_score(score, rule.limit.threshold)
            for rule, score in zip(policy.types, scores.type_scores, strict=True)
        },
        anomaly=rounded_score(scores.anomaly_score, anomaly_threshold),
    )


def _threshold_set(policy: Policy) -> ScoreSet:
    return ScoreSet(
        types={rule.name: rule.limit.threshold for rule in policy.types},
        anomaly=policy.anomaly.threshold if policy.anomaly else None,
    )


def _partial(result: Result) -> Result:
    """The same result with its highest type scores alone; the reasons that decided come first."""
    scores = (result.scores or result.thresholds).types
    kept = sorted(scores, key=lambda name: -(scores[name] or 0.0))[:_KEPT_TYPES]
    return result.model_copy(
        update={
            "is_partial": True,
            "why": tuple(sorted(result.why, key=lambda reason: reason.authority == "review"))[:_KEPT_REASONS],
            "scores": result.scores and _of_types(result.scores, kept),
            "thresholds": _of_types(result.thresholds, kept),
            "authority": {name: result.authority[name] for name in kept},
        }
    )


def _of_types(values: ScoreSet, names: list[str]) -> ScoreSet:
    return ScoreSet(types={name: values.types[name] for name in names}, anomaly=values.anomaly)
