"""Pure function (scores, policy) -> decision, and the rules for which defect types may reject (their authority)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.binomial import lower_bound, upper_bound
from edge.bundle.manifest import DefectType, Manifest, ScoreLimit
from edge.messages import Authority, Decision, NotInspected, Scores, Verdict, ViewScores, Why

MIN_IMAGES, MIN_PARTS = 30, 10
"""A defect type with fewer labelled images, or fewer distinct parts among them, may not reject."""
MIN_TARGET_DETECTION, MAX_TARGET_FALSE_REJECT, MIN_CONFIDENCE = 0.70, 0.05, 0.95
"""The weakest targets for a seeded run; a plant may demand more, never less."""


@dataclass(frozen=True, slots=True)
class TypePolicy:
    """Threshold and authority of one defect type."""

    name: str
    limit: ScoreLimit
    authority: Authority


@dataclass(frozen=True, slots=True)
class Policy:
    """All thresholds and authorities in force; `anomaly` is None if the bundle has no memory bank of good parts."""

    types: tuple[TypePolicy, ...]
    anomaly: ScoreLimit | None
    audit_rate: float = 0.0


def earned_authority(  # noqa: PLR0911  (one return per rule)
    defect_type: DefectType, *, demo_key: bool
) -> tuple[Authority, str]:
    """The authority that the evidence for a type supports, recomputed from raw counts, and the reason as text."""
    if defect_type.images < MIN_IMAGES or defect_type.parts < MIN_PARTS:
        return "review", (
            f"{defect_type.images} images of {defect_type.parts} parts; {MIN_IMAGES} images of {MIN_PARTS} parts needed"
        )
    run = defect_type.seeded
    if run is None:
        return "review", "no seeded run yet"
    detection = lower_bound(run.detected, run.parts, max(run.confidence, MIN_CONFIDENCE))
    false_reject = upper_bound(run.false_rejects, run.good_parts, max(run.confidence, MIN_CONFIDENCE))
    detection_target = max(run.target_detection, MIN_TARGET_DETECTION)
    false_reject_target = min(run.target_false_reject, MAX_TARGET_FALSE_REJECT)
    if detection < detection_target:
        return "review", (
            f"{run.detected} of {run.parts} seeded parts detected: at least {detection:.1%}; "
            f"{detection_target:.1%} needed"
        )
    if false_reject > false_reject_target:
        return "review", (
            f"{run.false_rejects} of {run.good_parts} good parts rejected: up to {false_reject:.1%}; "
            f"{false_reject_target:.1%} allowed"
        )
    proof = f"detects at least {detection:.1%}, rejects at most {false_reject:.1%} of good parts"
    if run.simulated:
        if demo_key:
            return "demo_reject", f"{proof}; simulated, demonstration only"
        return "review", "the seeded run was simulated; that gives authority in a demo-signed bundle only"
    return "reject", proof


def policy_from_manifest(manifest: Manifest, *, demo_key: bool, audit_rate: float = 0.0) -> Policy:
    """The policy that a bundle's evidence supports; an authority that differs from the earned one becomes review."""
    types = []
    for defect_type in manifest.types:
        earned, _ = earned_authority(defect_type, demo_key=demo_key)
        authority: Authority = earned if defect_type.authority == earned else "review"
        types.append(TypePolicy(defect_type.name, defect_type.limit, authority))
    return Policy(tuple(types), manifest.anomaly, audit_rate)


def policy_without_authority(types: tuple[DefectType, ...], anomaly: ScoreLimit | None) -> Policy:
    """A policy in which every type has the authority `review`; used for golden frames."""
    return Policy(tuple(TypePolicy(t.name, t.limit, "review") for t in types), anomaly)


def decide(views: Sequence[ViewScores], policy: Policy, audit_draw: float) -> Decision:
    """Decide on one part by the scores of all its views: the highest of each type, and the highest anomaly score.

    `audit_draw` is uniform in [0, 1): a pass is marked for audit if it is below the policy's audit rate.
    A score that is not finite is an engine failure, never a pass; so is a part without scores.
    """
    if not views:
        return not_inspected(NotInspected.ENGINE, "the part has no scores")
    if any(len(of_view.scores.type_scores) != len(policy.types) for of_view in views):
        return not_inspected(NotInspected.ENGINE, "the engine's number of scores differs from the bundle's types")
    if not all(math.isfinite(score) for of_view in views for score in _all_scores(of_view.scores)):
        return not_inspected(NotInspected.ENGINE, "a score is not a finite number")
    why = []
    for index, rule in enumerate(policy.types):
        score, view = _highest((of_view.scores.type_scores[index], of_view.view) for of_view in views)
        if score >= rule.limit.threshold:
            text = f"{rule.name}{_in_view(view)}: {score:.3f} >= {rule.limit.threshold:.3f}; {_EFFECTS[rule.authority]}"
            why.append(Why("head", rule.name, score, rule.limit.threshold, rule.authority, text, view))
    if policy.anomaly is not None:
        score, view = _highest((of_view.scores.anomaly_score, of_view.view) for of_view in views)
        threshold = policy.anomaly.threshold
        if score >= threshold:
            text = f"unlike the good parts{_in_view(view)}: {score:.3f} >= {threshold:.3f}; to a person"
            why.append(Why("anomaly", None, score, threshold, "review", text, view))
    why.sort(key=lambda reason: reason.authority == "review")  # rejecting reasons first
    if why:
        return Decision(Verdict.REVIEW if why[0].authority == "review" else Verdict.REJECT, tuple(why))
    return Decision(Verdict.PASS, (), audit=audit_draw < policy.audit_rate)


def not_inspected(reason: NotInspected, text: str) -> Decision:
    """The decision for a part that could not be inspected."""
    return Decision(Verdict.NOT_INSPECTED, (Why("system", None, None, None, None, text),), reason)


def highest_scores(views: Sequence[ViewScores]) -> tuple[tuple[float, ...], float]:
    """The type scores and the anomaly score of a part: each the highest over its views; NaN if one is not finite.

    `views` is not empty.

    Raises:
        ValueError: the views have different numbers of type scores.
    """
    by_type = zip(*(of_view.scores.type_scores for of_view in views), strict=True)
    return (
        tuple(_highest_or_nan(scores) for scores in by_type),
        _highest_or_nan([of_view.scores.anomaly_score for of_view in views]),
    )


def alarm_margin(scores: Scores, types: tuple[ScoreLimit, ...], anomaly: ScoreLimit | None) -> float:
    """All scores as one number: the largest distance of any score above the good parts' centre, in spreads.

    The false-alarm budget is set on this number, so that it holds for all scores together.
    """
    margins = [
        (logit(score) - limit.center) / limit.spread for score, limit in zip(scores.type_scores, types, strict=True)
    ]
    if anomaly is not None:
        margins.append((scores.anomaly_score - anomaly.center) / anomaly.spread)
    return max(margins, default=0.0)


def logit(score: float) -> float:
    """The inverse of the sigmoid, clipped to +-36, where float64 still resolves scores."""
    clipped = min(max(score, 2.4e-16), 1.0 - 2.4e-16)
    return math.log(clipped / (1.0 - clipped))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))


_EFFECTS: dict[Authority, str] = {
    "reject": "may reject",
    "demo_reject": "may reject (demo)",
    "review": "to a person",
}


def _all_scores(scores: Scores) -> tuple[float, ...]:
    return (*scores.type_scores, scores.anomaly_score)


def _highest(scores: Iterable[tuple[float, str]]) -> tuple[float, str | None]:
    """The highest (score, view); the view is None if there is only one. Of equal scores the first view by name."""
    ranked = sorted(scores, key=lambda scored: (-scored[0], scored[1]))
    return ranked[0][0], ranked[0][1] if len(ranked) > 1 else None


def _highest_or_nan(scores: Sequence[float]) -> float:
    return max(scores) if all(map(math.isfinite, scores)) else math.nan


def _in_view(view: str | None) -> str:
    return "" if view is None else f" in view {view}"
