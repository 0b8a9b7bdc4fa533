"""What a `threshold` command does to the policy in force; pure."""

from __future__ import annotations

from dataclasses import replace

from edge.contract.commands import ThresholdArgs
from edge.errors import ProcunitError
from edge.policy import Policy, TypePolicy


def policy_with_thresholds(policy: Policy, bundle_id: str, args: ThresholdArgs) -> Policy:
    """The policy with new thresholds and no new authority.

    A type's authority was proven at one threshold: at another it sends to review until a seeded run proves it again.

    Raises:
        ProcunitError: the command is for another bundle, or names what the bundle does not have.
    """
    if args.bundle_id != bundle_id:
        raise ProcunitError(
            f"the thresholds are for bundle {args.bundle_id[:12]}, and {bundle_id[:12]} is in use",
            remedy="Sign thresholds for the bundle in use",
        )
    unknown = sorted(set(args.types) - {rule.name for rule in policy.types})
    if unknown:
        raise ProcunitError(f"the bundle has no type {', '.join(map(repr, unknown))}")
    if args.anomaly is not None and policy.anomaly is None:
        raise ProcunitError("the bundle has no anomaly score")
    anomaly = policy.anomaly
    if anomaly is not None and args.anomaly is not None:
        anomaly = anomaly.model_copy(update={"threshold": args.anomaly})
    types = tuple(_at_threshold(rule, args.types.get(rule.name)) for rule in policy.types)
    return replace(policy, types=types, anomaly=anomaly)


def _at_threshold(rule: TypePolicy, threshold: float | None) -> TypePolicy:
    if threshold is None or threshold == rule.limit.threshold:
        return rule
    limit = rule.limit.model_copy(update={"threshold": threshold})
    return TypePolicy(rule.name, limit, "review")
