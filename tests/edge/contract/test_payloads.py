"""Published messages: their content, their largest size, and rounding that never contradicts a verdict."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.bundle.manifest import ScoreLimit
from edge.contract.payloads import (
    MAX_PAYLOAD_BYTES,
    Event,
    Result,
    Status,
    bytes_from_payload,
    event_from_fault,
)
from edge.contract.results import ResultContext, configuration_id, result_from_inspection
from edge.faults import FaultId
from edge.messages import Decision, Frame, Inspection, NotInspected, Scores, Timings, Trigger, Verdict, Why
from edge.policy import Policy, TypePolicy, decide, not_inspected
from edge.recipe import BankInUse
from tests.support.recipes import recipe_of

NOW = "2026-01-01T00:00:00.000Z"
EPOCH = "0123456789abcdef"


def policy_of(*names: str, threshold: float = 0.5, anomaly_threshold: float | None = 30.0) -> Policy:
    """A policy in which every type may reject."""
    limit = ScoreLimit(threshold=threshold, center=-3.0, spread=1.0)
    anomaly = None if anomaly_threshold is None else ScoreLimit(threshold=anomaly_threshold, center=20.0, spread=3.0)
    return Policy(tuple(TypePolicy(name, limit, "reject") for name in names), anomaly)


CONTEXT = ResultContext("edge-1", EPOCH, "works/edge-1/v1", "hold", simulated=True)
"""The context of a replayed demonstration."""


def result_of(inspection: Inspection, policy: Policy) -> Result:
    """The result message of a part that a bundle with this policy inspected."""
    return result_from_inspection(inspection, recipe_of(policy), CONTEXT)


def scores_of(*type_scores: float, anomaly: float = 10.0) -> Scores:
    """Scores with small maps."""
    maps = np.zeros((1, len(type_scores), 2, 2), np.float32)
    return Scores(type_scores, anomaly, maps, np.zeros((1, 2, 2), np.float32))


def inspection_of(scores: Scores | None, decision: Decision, part_id: str | None = "P1") -> Inspection:
    """An inspection of a part with a frame."""
    frame = Frame("f7", part_id, 107, NOW, 0, np.zeros((40, 40), np.uint8))
    trigger = Trigger(7, "f7", part_id, 107, NOW, 0, frame)
    return Inspection(trigger, decision, scores, Timings(0.12345, 1.0, 18.25, 0.01), NOW)


def wire(inspection: Inspection, policy: Policy) -> dict[str, object]:
    """The result message as parsed JSON."""
    message: dict[str, object] = json.loads(bytes_from_payload(result_of(inspection, policy)))
    return message


def test_the_whole_message_of_a_rejected_part() -> None:
    policy, scores = policy_of("scratch", "dent"), scores_of(0.912345678, 0.1)
    assert wire(inspection_of(scores, decide(scores, policy, 0.5)), policy) == {
        "resultId": f"{EPOCH}-7",
        "device": "edge-1",
        "epoch": EPOCH,
        "seq": 7,
        "counter": 107,
        "frameId": "f7",
        "partId": "P1",
        "triggerTime": NOW,
        "creationTime": NOW,
        "processingTimes": {
            "queueMs": 0.123,
            "preprocessMs": 1.0,
            "engineMs": 18.25,
            "decideMs": 0.01,
            "inspectMs": 19.26,
        },
        "resultState": 1,
        "resultEvaluation": 2,
        "verdict": "reject",
        "notInspected": None,
        "isSimulated": True,
        "isPartial": False,
        "reviewAction": "hold",
        "audit": False,
        "why": [
            {
                "scorer": "head",
                "defectType": "scratch",
                "score": 0.912346,
                "threshold": 0.5,
                "authority": "reject",
                "text": "scratch: 0.912 >= 0.500; may reject",
            }
        ],
        "scores": {"types": {"scratch": 0.912346, "dent": 0.1}, "anomaly": 10.0},
        "thresholds": {"types": {"scratch": 0.5, "dent": 0.5}, "anomaly": 30.0},
        "authority": {"scratch": "reject", "dent": "reject"},
        "bundle": {"id": "b" * 64, "product": "bracket", "version": 3, "bankVersion": 0},
        "image": {
            "frameId": "f7",
            "topic": f"works/edge-1/v1/frame/{EPOCH}-7/image",
            "heatmapTopic": f"works/edge-1/v1/frame/{EPOCH}-7/heatmap",
        },
        "productId": "bracket",
        "jobId": None,
        "internalRecipeId": "b" * 64,
        "internalConfigurationId": configuration_id(recipe_of(policy), "hold"),
        "backfill": False,
    }


@pytest.mark.parametrize(
    ("verdict", "evaluation", "state", "has_image"),
    [
        (Verdict.PASS, 1, 1, False),
        (Verdict.REJECT, 2, 1, True),
        (Verdict.REVIEW, 3, 1, True),
        (Verdict.NOT_INSPECTED, 0, 4, False),
    ],
)
def test_each_verdict_has_its_opc_evaluation_and_state(
    verdict: Verdict, evaluation: int, state: int, has_image: bool
) -> None:
    message = wire(inspection_of(None, Decision(verdict, ())), policy_of())
    assert (message["resultEvaluation"], message["resultState"]) == (evaluation, state)
    assert (message["image"] is not None) == has_image
    assert message["reviewAction"] == "hold"


def test_a_frame_without_scores_has_no_heatmap_topic() -> None:
    message = wire(inspection_of(None, Decision(Verdict.REVIEW, ())), policy_of())
    assert isinstance(message["image"], dict)
    assert message["image"]["heatmapTopic"] is None


def test_the_configuration_id_changes_with_everything_besides_the_bundle_that_influences_a_verdict() -> None:
    policy, rows = policy_of("scratch"), np.zeros((2, 2), np.float32)
    base = recipe_of(policy)
    assert policy.anomaly is not None
    deciding = [
        recipe_of(policy_of("scratch", threshold=0.51)),
        recipe_of(policy_of("scratch", anomaly_threshold=None)),
        recipe_of(replace(policy, types=(replace(policy.types[0], authority="review"),))),
        recipe_of(replace(policy, audit_rate=0.5)),
        replace(base, bank=BankInUse(1, rows, policy.anomaly)),
    ]
    ids = {configuration_id(recipe, "hold") for recipe in (base, *deciding)} | {configuration_id(base, "divert")}
    assert len(ids) == len(deciding) + 2
    assert configuration_id(recipe_of(policy, bundle_id="f" * 64), "hold") == configuration_id(base, "hold")


def test_the_frame_of_an_audited_pass_is_published() -> None:
    message = wire(inspection_of(scores_of(), Decision(Verdict.PASS, (), audit=True)), policy_of())
    assert message["audit"] is True
    assert message["image"] is not None


def test_a_part_without_a_frame_has_a_reason_and_no_image() -> None:
    with_frame = inspection_of(None, not_inspected(NotInspected.RESTART, "the device stopped"))
    inspection = replace(with_frame, trigger=replace(with_frame.trigger, frame=None, part_id=None))
    message = wire(inspection, policy_of("scratch"))
    assert (message["notInspected"], message["scores"], message["image"], message["partId"]) == (
        "restart",
        None,
        None,
        None,
    )
    assert message["why"] == [
        {
            "scorer": "system",
            "defectType": None,
            "score": None,
            "threshold": None,
            "authority": None,
            "text": "the device stopped",
        }
    ]


def test_scores_that_are_not_finite_become_null() -> None:
    policy, scores = policy_of("scratch"), scores_of(math.nan, anomaly=math.inf)
    message = wire(inspection_of(scores, decide(scores, policy, 0.5)), policy)
    assert message["verdict"] == "not_inspected"
    assert message["scores"] == {"types": {"scratch": None}, "anomaly": None}


def test_scores_that_do_not_fit_the_bundle_are_left_out() -> None:
    policy, scores = policy_of("scratch", "dent"), scores_of(0.9)
    message = wire(inspection_of(scores, decide(scores, policy, 0.5)), policy)
    assert message["scores"] is None


@given(
    score=st.floats(0, 1),
    threshold=st.floats(0, 1),
    anomaly=st.floats(0, 1e6),
    anomaly_threshold=st.floats(0, 1e6),
)
@example(score=0.4999999999, threshold=0.5, anomaly=29.99999999, anomaly_threshold=30.0)
@example(score=0.123456789, threshold=0.1234567889, anomaly=1.0, anomaly_threshold=1.0)
def test_rounded_scores_stay_on_their_side_of_the_threshold(
    score: float, threshold: float, anomaly: float, anomaly_threshold: float
) -> None:
    policy = policy_of("scratch", threshold=threshold, anomaly_threshold=anomaly_threshold)
    scores = scores_of(score, anomaly=anomaly)
    result = result_of(inspection_of(scores, decide(scores, policy, 0.5)), policy)
    sent = Result.model_validate_json(bytes_from_payload(result))
    assert sent.scores is not None
    type_score, type_threshold = sent.scores.types["scratch"], sent.thresholds.types["scratch"]
    assert type_score is not None
    assert type_threshold is not None
    assert type_score == pytest.approx(score, rel=1e-5)
    assert (type_score >= type_threshold) == (score >= threshold)
    assert sent.scores.anomaly is not None
    assert sent.thresholds.anomaly is not None
    assert (sent.scores.anomaly >= sent.thresholds.anomaly) == (anomaly >= anomaly_threshold)
    flagged = {reason.defect_type for reason in sent.why if reason.scorer == "head"}
    assert flagged == ({"scratch"} if type_score >= type_threshold else set())


@settings(max_examples=40, deadline=None)
@given(
    part_id=st.one_of(st.none(), st.text(st.characters(), max_size=400)),
    text=st.text(st.characters(), max_size=400),
    types=st.integers(0, 150),
)
@example(part_id="\ud800" * 300, text="\x00" * 300, types=150)
@example(part_id="\N{PILE OF POO}" * 300, text="\N{PILE OF POO}" * 300, types=150)
def test_any_text_and_any_number_of_types_make_valid_json_within_the_limit(
    part_id: str | None, text: str, types: int
) -> None:
    names = [f"{'t' * 58} {n:03}" for n in range(types)]
    policy = policy_of(*names)
    scores = scores_of(*(n / 150 for n in range(types)))
    why = tuple(Why("head", name, 0.9, 0.5, "review", text) for name in names)
    inspection = inspection_of(scores, Decision(Verdict.REVIEW, why), part_id)
    data = bytes_from_payload(result_of(inspection, policy))
    assert len(data) <= MAX_PAYLOAD_BYTES
    result = Result.model_validate_json(data)
    assert result.verdict is Verdict.REVIEW
    assert result.scores is not None
    assert result.is_partial == (len(result.scores.types) < types)
    if result.is_partial:
        assert set(result.scores.types) == set(names[-len(result.scores.types) :])
    if part_id is not None and len(part_id) <= 256 and part_id.isascii():
        assert result.part_id == part_id


def test_an_event_has_the_texts_of_the_fault_table_and_a_unique_id() -> None:
    events = [
        event_from_fault(FaultId.OVERLOAD, "x" * 9000, device="edge-1", epoch=EPOCH, created_at_utc=NOW) for _ in "ab"
    ]
    data = bytes_from_payload(events[0])
    assert len(data) <= MAX_PAYLOAD_BYTES
    event = Event.model_validate_json(data)
    fault = FaultId.OVERLOAD.fault
    assert (event.fault, event.severity, event.text, event.action) == (
        FaultId.OVERLOAD,
        fault.severity,
        fault.text,
        fault.action,
    )
    assert events[0].event_id != events[1].event_id


def test_messages_fit_their_published_schemas() -> None:
    policy, scores = policy_of("scratch"), scores_of(0.9)
    messages: list[Result | Event | Status] = [
        result_of(inspection_of(scores, decide(scores, policy, 0.5)), policy),
        event_from_fault(FaultId.OVERLOAD, "", device="edge-1", epoch=EPOCH, created_at_utc=NOW),
        Status(device="edge-1", epoch=EPOCH, state="offline", time=None, version="0.1.0"),
    ]
    for message in messages:
        jsonschema.validate(json.loads(bytes_from_payload(message)), type(message).model_json_schema(by_alias=True))
