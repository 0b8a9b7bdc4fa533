"""Builds the result message of an inspection."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from edge.contract.encoding import clean_text, result_id, rounded_score
from edge.contract.payloads import (
    BundleRef,
    ImageRef,
    ProcessingTimes,
    Result,
    ResultEvaluation,
    ResultState,
    ReviewAction,
    ScoreSet,
    WhyPayload,
    shows_frame,
)
from edge.contract.topics import FRAME_HEATMAP, FRAME_IMAGE
from edge.messages import Inspection, Scores, Timings, Verdict, Why
from edge.policy import Policy
from edge.recipe import Recipe

_EVALUATIONS = {
    Verdict.PASS: ResultEvaluation.OK,
    Verdict.REJECT: ResultEvaluation.NOT_OK,
    Verdict.REVIEW: ResultEvaluation.NOT_DECIDABLE,
    Verdict.NOT_INSPECTED: ResultEvaluation.UNDEFINED,
}


@dataclass(frozen=True)
class ResultContext:
    """What all results of a device have in common.

    `root` is the root of the device's topics; `simulated` is True for frames replayed from files.
    """

    device: str
    epoch: str
    root: str
    review_action: ReviewAction
    simulated: bool


def bundle_of_recipe(recipe: Recipe) -> BundleRef:
    """The bundle and the version of its memory bank, as messages name them."""
    manifest = recipe.bundle.manifest
    return BundleRef(
        id=recipe.bundle.bundle_id,
        product=manifest.product,
        version=manifest.version,
        bank_version=recipe.bank_version,
    )


def configuration_id(recipe: Recipe, review_action: ReviewAction) -> str:
    """A short hash of everything besides the bundle that influences a verdict."""
    policy = recipe.policy
    types = [(rule.name, rule.limit.threshold, rule.authority) for rule in policy.types]
    anomaly = policy.anomaly.threshold if policy.anomaly else None
    deciding = json.dumps([types, anomaly, policy.audit_rate, review_action, recipe.bank_version])
    return hashlib.sha256(deciding.encode()).hexdigest()[:16]


def result_from_inspection(
    inspection: Inspection, recipe: Recipe, context: ResultContext, *, snapshot: bool = False
) -> Result:
    """The result message of an inspection; for a `snapshot` the frame is published whatever the verdict."""
    trigger, decision, policy = inspection.trigger, inspection.decision, recipe.policy
    bundle = bundle_of_recipe(recipe)
    identity = result_id(context.epoch, trigger.seq)
    inspected = decision.verdict is not Verdict.NOT_INSPECTED
    image = None
    if trigger.frame is not None and (snapshot or shows_frame(decision)):
        image = ImageRef(
            frame_id=clean_text(trigger.frame_id),
            topic=FRAME_IMAGE.at(context.root, resultId=identity),
            heatmap_topic=(
                FRAME_HEATMAP.at(context.root, resultId=identity) if inspection.scores is not None else None
            ),
        )
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
        review_action=context.review_action,
        audit=decision.audit,
        why=tuple(_why(reason) for reason in decision.why),
        scores=_score_set(inspection.scores, policy),
        thresholds=threshold_set_from_policy(policy),
        authority={rule.name: rule.authority for rule in policy.types},
        bundle=bundle,
        image=image,
        product_id=bundle.product,
        internal_recipe_id=bundle.id,
        internal_configuration_id=configuration_id(recipe, context.review_action),
    )


def payload_below(payload: bytes, root: str) -> bytes:
    """A stored message as it is published below `root`: the topics in it are those on which the device publishes now.

    They differ for a result that was stored before the device, or a level above it, was renamed. The device's name in
    it stays, because (device, epoch, seq) says which result it is.
    """
    if b'"image":{' not in payload or f'"topic":"{root}/frame/'.encode() in payload:
        return payload
    result = json.loads(payload)
    image, identity = result["image"], result["resultId"]
    topics = {"topic": FRAME_IMAGE, "heatmapTopic": FRAME_HEATMAP}
    for key, topic in topics.items():
        if image.get(key) is not None:  # replaced in place: no other byte of a stored result changes
            present = topic.at(root, resultId=identity)
            old, new = (f'"{key}":{json.dumps(text)}'.encode() for text in (image[key], present))
            payload = payload.replace(old, new, 1)
    return payload


def threshold_set_from_policy(policy: Policy) -> ScoreSet:
    """The thresholds in force."""
    return ScoreSet(
        types={rule.name: rule.limit.threshold for rule in policy.types},
        anomaly=policy.anomaly.threshold if policy.anomaly else None,
    )


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
