"""Builds the result message of an inspection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    ViewImage,
    WhyPayload,
    shows_frame,
)
from edge.contract.topics import heatmap_topic, image_topic
from edge.messages import MAIN_VIEW, Inspection, Timings, Verdict, ViewScores, Why
from edge.policy import Policy, highest_scores
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


@lru_cache(maxsize=1)  # of the recipe in use
def bundle_of_recipe(recipe: Recipe) -> BundleRef:
    """The bundle and the version of its memory bank, as messages name them."""
    manifest = recipe.bundle.manifest
    return BundleRef(
        id=recipe.bundle.bundle_id,
        product=manifest.product,
        version=manifest.version,
        bank_version=recipe.bank_version,
    )


@lru_cache(maxsize=1)  # of the recipe in use
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
    """The result message of an inspection; for a `snapshot` the frames are published whatever the verdict."""
    trigger, decision, policy = inspection.trigger, inspection.decision, recipe.policy
    bundle = bundle_of_recipe(recipe)
    identity = result_id(context.epoch, trigger.seq)
    inspected = decision.verdict is not Verdict.NOT_INSPECTED
    images = _images(inspection, context.root, identity) if snapshot or shows_frame(decision) else ()
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
        scores=_part_scores(inspection.scores, policy),
        scores_by_view=_scores_by_view(inspection.scores, policy),
        thresholds=threshold_set_from_policy(policy),
        authority={rule.name: rule.authority for rule in policy.types},
        bundle=bundle,
        image=_first_image(images, trigger.frame_id),
        images=images,
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
    for image in (result["image"], *result.get("images", ())):  # results of earlier versions have `image` alone
        for key in ("topic", "heatmapTopic"):
            if image is not None and image.get(key) is not None:
                _, level, of_frame = image[key].rpartition("/frame/")
                # replaced in place: no other byte of a stored result changes
                old, new = (f'"{key}":{json.dumps(topic)}'.encode() for topic in (image[key], root + level + of_frame))
                payload = payload.replace(old, new)
    return payload


def threshold_set_from_policy(policy: Policy) -> ScoreSet:
    """The thresholds in force."""
    return ScoreSet(
        types={rule.name: rule.limit.threshold for rule in policy.types},
        anomaly=policy.anomaly.threshold if policy.anomaly else None,
    )


def _images(inspection: Inspection, root: str, identity: str) -> tuple[ViewImage, ...]:
    return tuple(
        ViewImage(
            frame_id=clean_text(view.frame.frame_id),
            topic=image_topic(view.name).at(root, resultId=identity, view=view.name),
            heatmap_topic=(
                heatmap_topic(view.name).at(root, resultId=identity, view=view.name) if inspection.scores else None
            ),
            view=view.name,
        )
        for view in inspection.trigger.views
    )


def _first_image(images: tuple[ViewImage, ...], frame_id: str) -> ImageRef | None:
    """What receivers that know one view per part get: the main view, or the first."""
    if not images:
        return None
    first = next((image for image in images if image.view == MAIN_VIEW), images[0])
    return ImageRef(frame_id=clean_text(frame_id), topic=first.topic, heatmap_topic=first.heatmap_topic)


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
        view=reason.view,
    )


def _part_scores(views: Sequence[ViewScores], policy: Policy) -> ScoreSet | None:
    if not views or not _fit(views, policy):
        return None
    return _score_set(*highest_scores(views), policy)


def _scores_by_view(views: Sequence[ViewScores], policy: Policy) -> dict[str, ScoreSet] | None:
    if len(views) < 2 or not _fit(views, policy):
        return None
    return {
        of_view.view: _score_set(of_view.scores.type_scores, of_view.scores.anomaly_score, policy) for of_view in views
    }


def _fit(views: Sequence[ViewScores], policy: Policy) -> bool:
    return all(len(of_view.scores.type_scores) == len(policy.types) for of_view in views)


def _score_set(type_scores: Sequence[float], anomaly_score: float, policy: Policy) -> ScoreSet:
    return ScoreSet(
        types={
            rule.name: rounded_score(score, rule.limit.threshold)
            for rule, score in zip(policy.types, type_scores, strict=True)
        },
        anomaly=rounded_score(anomaly_score, policy.anomaly.threshold if policy.anomaly else None),
    )
