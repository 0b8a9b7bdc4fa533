"""Signed orders are in force at once and after a restart; a file without valid signatures changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.bank.store import BankInUse
from edge.bundle.keys import TrustedKey
from edge.bundle.manifest import ScoreLimit
from edge.commands.rules_in_force import Rules, RulesInForce
from edge.commands.signature import signature_from_key
from edge.contract.commands import CommandName
from edge.errors import ProcunitError
from edge.policy import Policy, TypePolicy

ROOT, BUNDLE = "works/edge-1/v1", "c0" * 32
KEY = Ed25519PrivateKey.generate()
TRUSTED = (TrustedKey("release.pub", KEY.public_key(), demo=False),)
LIMIT = ScoreLimit(threshold=0.5, center=0.0, spread=1.0)
POLICY = Policy((TypePolicy("dent", LIMIT, "reject"), TypePolicy("scratch", LIMIT, "review")), LIMIT)


def command(name: str, **args: object) -> dict[str, object]:
    """A signed command."""
    envelope: dict[str, object] = {"cmdId": f"{name}-1", "args": args}
    return {**envelope, "signature": signature_from_key(KEY, ROOT, name, envelope)}


def thresholds(bundle: str = BUNDLE, **values: float) -> dict[str, object]:
    """A signed `threshold` command; `values` are by type name, or `anomaly`."""
    args: dict[str, object] = {"bundleId": bundle}
    if "anomaly" in values:
        args["anomaly"] = values.pop("anomaly")
    return command("threshold", **args, types=values)


def opened(folder: Path, keys: tuple[TrustedKey, ...] = TRUSTED, bundle: str = BUNDLE) -> RulesInForce:
    return RulesInForce(folder / "orders.json", ROOT, keys, bundle, POLICY)


def in_force(rules: Rules) -> tuple[bool, dict[str, tuple[float, str]], float | None]:
    types: dict[str, tuple[float, str]] = {r.name: (r.limit.threshold, r.authority) for r in rules.policy.types}
    anomaly = rules.policy.anomaly
    return rules.armed, types, None if anomaly is None else anomaly.threshold


def stored(folder: Path) -> list[str]:
    return [order["name"] for order in json.loads((folder / "orders.json").read_text())]


def test_without_orders_the_bundles_policy_is_in_force(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    assert orders.rules == Rules(armed=True, policy=POLICY)
    assert orders.dropped == ()


def test_orders_add_up_and_hold_after_a_restart(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    given: list[tuple[CommandName, dict[str, object]]] = [
        ("threshold", thresholds(dent=0.6)),
        ("threshold", thresholds(scratch=0.7, anomaly=3.0)),
        ("disarm", command("disarm")),
        ("threshold", thresholds(dent=0.8)),
    ]
    for name, envelope in given:
        orders.add(name, envelope)
    expected = (False, {"dent": (0.8, "review"), "scratch": (0.7, "review")}, 3.0)
    assert in_force(orders.rules) == expected
    again = opened(tmp_path)
    assert in_force(again.rules) == expected
    assert again.dropped == ()
    assert stored(tmp_path) == ["threshold", "disarm", "threshold"]  # the first one has no effect any more


def test_arm_removes_the_stored_disarm(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    for name in ("disarm", "disarm", "arm"):
        orders.add(name, command(name))
    assert orders.rules.armed
    assert opened(tmp_path).rules.armed
    assert stored(tmp_path) == []


def test_setting_the_bundles_own_threshold_restores_its_authority_now_and_after_a_restart(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    orders.add("threshold", thresholds(dent=0.6))
    orders.add("threshold", thresholds(dent=0.5))
    assert orders.rules.policy == POLICY
    assert opened(tmp_path).rules.policy == POLICY


def test_an_order_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    orders.add("threshold", thresholds(dent=0.6))
    before = orders.rules
    for wrong in (thresholds(hole=0.6), thresholds("d0" * 32, dent=0.6)):
        with pytest.raises(ProcunitError):
            orders.add("threshold", wrong)
    assert orders.rules is before
    assert stored(tmp_path) == ["threshold"]


def test_another_bundle_drops_the_thresholds_for_good_and_stays_disarmed(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    orders.add("threshold", thresholds(dent=0.6))
    orders.add("disarm", command("disarm"))
    other = opened(tmp_path, bundle="d0" * 32)
    assert other.rules == Rules(armed=False, policy=POLICY)
    assert "for bundle c0c0c0c0c0c0" in other.dropped[0]
    back = opened(tmp_path)
    assert (back.rules, back.dropped) == (Rules(armed=False, policy=POLICY), ())


def test_a_grown_bank_has_its_own_anomaly_limit_and_orders_take_precedence_over_it(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    lower = LIMIT.model_copy(update={"threshold": 0.4})
    grown, own = BankInUse(1, np.ones((3, 2), np.float32), lower), BankInUse(0, np.zeros((2, 2), np.float32), LIMIT)
    orders.use_bank(grown)
    assert orders.rules.bank is grown
    assert in_force(orders.rules) == (True, {"dent": (0.5, "reject"), "scratch": (0.5, "review")}, 0.4)
    orders.add("threshold", thresholds(dent=0.6))
    assert orders.rules.bank is grown
    assert in_force(orders.rules)[2] == 0.4
    orders.add("threshold", thresholds(anomaly=3.0))
    orders.use_bank(own)
    assert orders.rules.bank is own
    assert in_force(orders.rules) == (True, {"dent": (0.6, "review"), "scratch": (0.5, "review")}, 3.0)


def test_orders_of_a_key_that_is_no_longer_trusted_are_dropped(tmp_path: Path) -> None:
    opened(tmp_path).add("disarm", command("disarm"))
    later = opened(tmp_path, keys=())
    assert later.rules.armed
    assert "not signed by a key" in later.dropped[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda order: order["command"]["args"]["types"].update(dent=0.99),
        lambda order: order["command"].pop("signature"),
        lambda order: order["command"].update(signature=7),
        lambda order: order.update(name="disarm"),
    ],
)
def test_a_changed_file_changes_no_decision(tmp_path: Path, change: object) -> None:
    opened(tmp_path).add("threshold", thresholds(dent=0.6))
    file = tmp_path / "orders.json"
    data = json.loads(file.read_text())
    assert callable(change)
    change(data[0])
    file.write_text(json.dumps(data))
    orders = opened(tmp_path)
    assert orders.rules == Rules(armed=True, policy=POLICY)
    assert len(orders.dropped) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b'[{"name": "bundle", "command": {}}]', b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_reported_and_no_order_is_in_force(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "orders.json").write_bytes(data)
    orders = opened(tmp_path)
    assert orders.rules == Rules(armed=True, policy=POLICY)
    assert "orders.json cannot be read" in orders.dropped[0]
    orders.add("disarm", command("disarm"))
    assert not opened(tmp_path).rules.armed


def test_an_order_that_cannot_be_stored_is_not_in_force(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    (tmp_path / ".orders.json.partial").mkdir()
    with pytest.raises(ProcunitError, match="cannot be stored"):
        orders.add("disarm", command("disarm"))
    assert orders.rules.armed
