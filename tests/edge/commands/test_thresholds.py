"""How a `threshold` command changes the policy; it never adds authority."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle.manifest import ScoreLimit
from edge.commands.rules_in_force import policy_with_thresholds
from edge.contract.commands import ThresholdArgs
from edge.errors import ProcunitError
from edge.messages import Authority
from edge.policy import Policy, TypePolicy

BUNDLE_ID = "c0" * 32
LIMIT = ScoreLimit(threshold=0.5, center=-3.0, spread=1.0)
RANK: dict[Authority, int] = {"review": 0, "demo_reject": 1, "reject": 2}


def args_of(**args: object) -> ThresholdArgs:
    return ThresholdArgs.model_validate({"bundleId": BUNDLE_ID, **args})


def policy_of(authority: Authority, anomaly: ScoreLimit | None = LIMIT) -> Policy:
    return Policy((TypePolicy("dent", LIMIT, authority), TypePolicy("scratch", LIMIT, authority)), anomaly, 0.01)


def test_a_type_with_a_new_threshold_loses_its_authority_and_the_others_keep_it() -> None:
    changed = policy_with_thresholds(policy_of("reject"), BUNDLE_ID, args_of(types={"dent": 0.6}, anomaly=2.5))
    dent, scratch = changed.types
    assert (dent.limit.threshold, dent.authority) == (0.6, "review")
    assert scratch == policy_of("reject").types[1]
    assert changed.anomaly is not None
    assert (changed.anomaly.threshold, changed.anomaly.spread) == (2.5, LIMIT.spread)
    assert changed.audit_rate == 0.01


def test_setting_the_same_threshold_changes_nothing() -> None:
    policy = policy_of("reject")
    assert policy_with_thresholds(policy, BUNDLE_ID, args_of(types={"dent": 0.5})) == policy


@given(
    authority=st.sampled_from(["review", "demo_reject", "reject"]),
    types=st.dictionaries(st.sampled_from(["dent", "scratch"]), st.floats(0, 1), min_size=1),
)
def test_no_threshold_ever_gives_authority(authority: Authority, types: dict[str, float]) -> None:
    changed = policy_with_thresholds(policy_of(authority), BUNDLE_ID, args_of(types=types))
    assert all(RANK[rule.authority] <= RANK[authority] for rule in changed.types)


@pytest.mark.parametrize(
    ("args", "policy", "problem"),
    [
        (args_of(types={"crack": 0.5}), policy_of("review"), "no type 'crack'"),
        (args_of(anomaly=2.0), policy_of("review", None), "no anomaly score"),
        (args_of(bundleId="d0" * 32, anomaly=2.0), policy_of("review"), "are for bundle d0d0d0d0d0d0"),
    ],
)
def test_thresholds_that_do_not_fit_the_bundle_are_refused(args: ThresholdArgs, policy: Policy, problem: str) -> None:
    with pytest.raises(ProcunitError, match=problem):
        policy_with_thresholds(policy, BUNDLE_ID, args)
