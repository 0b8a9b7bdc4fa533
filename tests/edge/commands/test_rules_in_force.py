"""Signed orders are in force at once and after a restart; a file without valid signatures changes nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle.keys import TrustedKey
from edge.bundle.manifest import ScoreLimit
from edge.commands.audit import AuditLog
from edge.commands.command_state import CommandState
from edge.commands.desk import CommandDesk
from edge.commands.rules_in_force import Rules, RulesInForce
from edge.commands.signature import signature_from_key
from edge.commands.table import DeviceActions
from edge.contract.commands import CommandName, CommandReply, Refusal
from edge.errors import ProcunitError
from edge.mqtt.inlet import Incoming
from edge.policy import Policy, TypePolicy
from edge.recipe import BankInUse
from edge.system.clock import utc_from_unix_s
from tests.support.publishing import wait_until
from tests.support.recipes import recipe_of

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
    state = CommandState(folder / "command-state.json")
    return RulesInForce(folder / "orders.json", ROOT, keys, recipe_of(POLICY, bundle_id=bundle), state)


def in_force(rules: Rules) -> tuple[bool, dict[str, tuple[float, str]], float | None]:
    types: dict[str, tuple[float, str]] = {r.name: (r.limit.threshold, r.authority) for r in rules.recipe.policy.types}
    anomaly = rules.recipe.policy.anomaly
    return rules.armed, types, None if anomaly is None else anomaly.threshold


def as_in_bundle(rules: Rules) -> tuple[bool, Policy]:
    return rules.armed, rules.recipe.policy


def stored(folder: Path) -> list[str]:
    return [order["name"] for order in json.loads((folder / "orders.json").read_text())["orders"]]


def test_without_orders_the_bundles_policy_is_in_force(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    assert as_in_bundle(orders.rules) == (True, POLICY)
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
    assert orders.rules.recipe.policy == POLICY
    assert opened(tmp_path).rules.recipe.policy == POLICY


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
    assert as_in_bundle(other.rules) == (False, POLICY)
    assert "for bundle c0c0c0c0c0c0" in other.dropped[0]
    back = opened(tmp_path)
    assert (as_in_bundle(back.rules), back.dropped) == ((False, POLICY), ())


def test_a_grown_bank_has_its_own_anomaly_limit_and_orders_take_precedence_over_it(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    lower = LIMIT.model_copy(update={"threshold": 0.4})
    grown, own = BankInUse(1, np.ones((3, 2), np.float32), lower), BankInUse(0, np.zeros((2, 2), np.float32), LIMIT)
    orders.use_bank(grown)
    assert orders.rules.recipe.bank is grown
    assert in_force(orders.rules) == (True, {"dent": (0.5, "reject"), "scratch": (0.5, "review")}, 0.4)
    orders.add("threshold", thresholds(dent=0.6))
    assert orders.rules.recipe.bank is grown
    assert in_force(orders.rules)[2] == 0.4
    orders.add("threshold", thresholds(anomaly=3.0))
    orders.use_bank(own)
    assert orders.rules.recipe.bank is own
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
    change(data["orders"][0])
    file.write_text(json.dumps(data))
    orders = opened(tmp_path)
    assert as_in_bundle(orders.rules) == (True, POLICY)
    assert len(orders.dropped) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b'[{"name": "bundle", "command": {}}]', b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_reported_and_no_order_is_in_force(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "orders.json").write_bytes(data)
    orders = opened(tmp_path)
    assert as_in_bundle(orders.rules) == (True, POLICY)
    assert "orders.json cannot be read" in orders.dropped[0]
    orders.add("disarm", command("disarm"))
    assert not opened(tmp_path).rules.armed


def test_an_order_that_cannot_be_stored_is_not_in_force(tmp_path: Path) -> None:
    orders = opened(tmp_path)
    (tmp_path / ".orders.json.partial").mkdir()
    with pytest.raises(ProcunitError, match="cannot be stored"):
        orders.add("disarm", command("disarm"))
    assert orders.rules.armed


class Desk:
    """A desk with the device's own files, which can be restarted and can lose them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self, *, outbox_lost: bool = False) -> None:
        if outbox_lost or not hasattr(self, "memory"):
            self.memory: dict[str, object] = {}
        self.state = CommandState(self.folder / "command-state.json")
        recipe = recipe_of(POLICY, bundle_id=BUNDLE)
        self.rules_in_force = RulesInForce(self.folder / "orders.json", ROOT, TRUSTED, recipe, self.state)
        nothing = lambda *_: pytest.fail("not asked for")  # noqa: E731
        self._desk = CommandDesk(
            ROOT,
            "edge-1",
            allowed=("arm", "disarm", "threshold"),
            keys=TRUSTED,
            memory=self,
            order=self.state,
            actions=DeviceActions(
                *(nothing, nothing, nothing, nothing, nothing, nothing), order=self.rules_in_force.add
            ),
            audit=AuditLog(lambda _event: None, device="edge-1", epoch="abc"),
        )

    def seen(self, cmd_id: str) -> bool:
        return cmd_id in self.memory

    def remember(self, cmd_id: str, expires_at: datetime) -> None:
        self.memory[cmd_id] = expires_at

    def signed(self, name: str, counter: int, valid_s: float = 60, **args: object) -> dict[str, object]:
        """A command for the device's present state."""
        now_s = time.time()
        envelope: dict[str, object] = {
            "cmdId": f"{name}-{counter}",
            "issuedAt": utc_from_unix_s(now_s - 1),
            "expiresAt": utc_from_unix_s(now_s + valid_s),
            "stateId": self.state.position.state_id,
            "counter": counter,
            "args": args,
        }
        return {**envelope, "signature": signature_from_key(KEY, ROOT, name, envelope)}

    def dent(self, counter: int) -> dict[str, object]:
        """A threshold for the type dent."""
        return self.signed("threshold", counter, bundleId=BUNDLE, types={"dent": 0.6})

    def deliver(self, name: str, envelope: dict[str, object]) -> CommandReply:
        reply = self._desk.handle(Incoming(f"{ROOT}/cmd/{name}", json.dumps(envelope).encode(), False, None, None))
        assert reply is not None
        return CommandReply.model_validate_json(reply.payload)


STEPS = st.lists(
    st.integers(0, 5) | st.sampled_from(["restart", "restart without the outbox"]), min_size=1, max_size=20
)


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(["arm", "disarm", "dent", "scratch"]), min_size=6, max_size=6), steps=STEPS)
def test_in_whatever_order_commands_arrive_the_rules_are_those_of_the_highest_counters(
    kinds: list[str], steps: list[int | str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        signed = [
            (kind, desk.signed(kind, n + 1))
            if kind in ("arm", "disarm")
            else ("threshold", desk.signed("threshold", n + 1, bundleId=BUNDLE, types={kind: 0.6 + n / 100}))
            for n, kind in enumerate(kinds)
        ]
        accepted: list[int] = []
        for step in steps:
            if isinstance(step, str):
                desk.start(outbox_lost=step != "restart")
            elif desk.deliver(*signed[step]).outcome == "done":
                accepted.append(step)
        assert accepted == sorted(set(accepted))  # each at most once, and never an older one
        numbers = [step for step in steps if isinstance(step, int)]
        assert accepted == [n for place, n in enumerate(numbers) if n > max(numbers[:place], default=-1)]
        last = {kinds[n] if kinds[n] in ("dent", "scratch") else "armed": n for n in accepted}
        expected = {
            name: (0.6 + last[name] / 100, "review") if name in last else (0.5, authority)
            for name, authority in (("dent", "reject"), ("scratch", "review"))
        }
        armed = "armed" not in last or kinds[last["armed"]] == "arm"
        assert in_force(desk.rules_in_force.rules) == (armed, expected, 0.5)
        desk.start()
        assert in_force(desk.rules_in_force.rules) == (armed, expected, 0.5)
        assert desk.rules_in_force.dropped == ()


def test_an_order_accepted_in_time_holds_after_it_expired(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    order = desk.signed("disarm", 1, valid_s=0.5)
    assert desk.deliver("disarm", order).outcome == "done"
    wait_until(lambda: desk.deliver("disarm", order).reason is Refusal.EXPIRED)
    desk.start()
    assert not desk.rules_in_force.rules.armed


def test_an_order_that_could_not_be_stored_is_not_in_force_later_either(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    in_the_way = tmp_path / ".orders.json.partial"
    in_the_way.mkdir()
    disarm = desk.signed("disarm", 1)
    failed = desk.deliver("disarm", disarm)
    assert (failed.outcome, failed.reason) == ("failed", Refusal.IMPOSSIBLE)
    in_the_way.rmdir()
    desk.start(outbox_lost=True)
    assert desk.deliver("disarm", disarm).reason is Refusal.SUPERSEDED  # at most once, also if it failed
    assert (desk.rules_in_force.rules.armed, desk.rules_in_force.dropped) == (True, ())
    assert desk.deliver("disarm", desk.signed("disarm", 2)).outcome == "done"


def test_a_power_cut_right_after_an_order_was_stored_does_not_lose_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.deliver("threshold", desk.dent(1)).outcome == "done"
    file = tmp_path / "command-state.json"
    before = json.loads(file.read_text())
    assert desk.deliver("disarm", desk.signed("disarm", 2)).outcome == "done"
    file.write_text(json.dumps({**before, "counter": 2}))  # as it was between its two writes
    desk.start()
    assert (desk.rules_in_force.rules.armed, desk.rules_in_force.dropped) == (False, ())


def test_a_signed_order_put_into_the_file_by_hand_does_not_count(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.deliver("threshold", desk.dent(1)).outcome == "done"
    file = tmp_path / "orders.json"
    data = json.loads(file.read_text())
    data["orders"].append({"name": "disarm", "command": desk.signed("disarm", 2, valid_s=-3600)})
    file.write_text(json.dumps(data))
    desk.start()
    assert as_in_bundle(desk.rules_in_force.rules) == (True, POLICY)
    assert "orders.json was changed, not by this device" in desk.rules_in_force.dropped[0]


def test_orders_of_an_earlier_version_do_not_count_and_the_text_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text(json.dumps([{"name": "disarm", "command": command("disarm")}]))
    desk = Desk(tmp_path)
    assert desk.rules_in_force.rules.armed
    (text,) = desk.rules_in_force.dropped
    assert "an earlier version wrote it" in text
    assert "have what is still wanted signed and sent again" in text
    desk.start()
    assert desk.rules_in_force.dropped == ()  # reported once
    (tmp_path / "command-state.json").unlink()
    (tmp_path / "orders.json").write_text("[]")
    desk.start()
    assert desk.rules_in_force.dropped == ()  # there was no order


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder, _old: (folder / "orders.json").unlink(), "orders.json is missing"),
        (lambda folder, _old: (folder / "orders.json").write_bytes(b"{"), "orders.json cannot be read"),
        (lambda folder, old: (folder / "orders.json").write_bytes(old), "orders.json is an older copy"),
        (lambda folder, _old: (folder / "orders.json").write_text("[]"), "orders.json cannot be read"),
        (lambda folder, _old: (folder / "command-state.json").unlink(), "written in another state"),
        (lambda folder, _old: (folder / "command-state.json").write_bytes(b"{}"), "command-state.json is damaged"),
    ],
)
def test_after_a_lost_or_an_older_file_every_command_signed_before_is_refused(
    tmp_path: Path, damage: Callable[[Path, bytes], object], text: str
) -> None:
    desk = Desk(tmp_path)
    assert desk.deliver("disarm", desk.signed("disarm", 1)).outcome == "done"
    old = (tmp_path / "orders.json").read_bytes()
    assert desk.deliver("arm", desk.signed("arm", 2)).outcome == "done"
    assert desk.deliver("threshold", desk.dent(3)).outcome == "done"
    undelivered = desk.signed("disarm", 4)
    before = desk.state.position.state_id
    damage(tmp_path, old)
    desk.start(outbox_lost=True)
    assert text in desk.rules_in_force.dropped[0]
    assert as_in_bundle(desk.rules_in_force.rules) == (True, POLICY)
    assert desk.state.position.state_id != before
    assert desk.deliver("disarm", undelivered).reason is Refusal.SUPERSEDED
    assert desk.deliver("disarm", desk.signed("disarm", 1)).outcome == "done"
    desk.start()
    assert (desk.rules_in_force.rules.armed, desk.rules_in_force.dropped) == (False, ())


def test_the_files_of_another_device_with_the_same_topics_and_key_do_not_count(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    desk, other = Desk(here), Desk(there)
    order = other.signed("disarm", 1)
    assert desk.deliver("disarm", order).reason is Refusal.SUPERSEDED
    assert other.deliver("disarm", order).outcome == "done"
    shutil.copy(there / "orders.json", here / "orders.json")
    desk.start()
    assert desk.rules_in_force.rules.armed
    assert "or by another device" in desk.rules_in_force.dropped[0]


def test_the_secret_is_readable_by_the_service_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.deliver("arm", desk.signed("arm", 1)).outcome == "done"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    secret = json.loads((tmp_path / "command-state.json").read_text())["secret"]
    assert secret not in (tmp_path / "orders.json").read_text()
