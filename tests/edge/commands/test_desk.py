"""Commands: which are refused and why, and which are executed; no malformed input is executed or raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle.keys import TrustedKey, keys_for_commands
from edge.commands.audit import MAX_A_MINUTE, AuditLog
from edge.commands.command_state import CommandState, Position
from edge.commands.desk import MAX_COUNTER_STEP, CommandDesk, CommandOrder, Reply
from edge.commands.signature import signature_from_key
from edge.commands.table import COMMANDS, DeviceActions
from edge.contract.commands import (
    ALLOWED_UNLESS_SET,
    MAX_COMMAND_BYTES,
    CommandName,
    CommandReply,
    DeviceReport,
    LabelArgs,
    PartIdArgs,
    Refusal,
)
from edge.contract.payloads import Event
from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.frames.labels import Labeller, NeedsKeyError
from edge.messages import PinAnswer
from edge.mqtt.inlet import Incoming
from edge.outbox.command_memory import CommandMemory
from edge.outbox.outbox import Outbox
from edge.system.clock import unix_s_from_utc, utc_from_unix_s
from tests.contract.examples import example, request_examples

T = TypeVar("T")
ROOT = "acme/graz/line-1/edge-1/v1"
STATE = "5f0c1a2b3c4d5e6f5f0c1a2b3c4d5e6f"
NOW_S = unix_s_from_utc("2026-11-22T19:00:00Z")
KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


class Memory:
    """Remembers commands in memory."""

    def __init__(self) -> None:
        self.expires: dict[str, datetime] = {}

    def seen(self, cmd_id: str) -> bool:
        return cmd_id in self.expires

    def remember(self, cmd_id: str, expires_at: datetime) -> None:
        self.expires[cmd_id] = expires_at


class Order:
    """The state of signed commands in memory."""

    def __init__(self) -> None:
        self.position = Position(STATE, 0)

    def accept(self, counter: int) -> None:
        self.position = Position(STATE, counter)


@dataclass
class Bench:
    """A desk that records the actions it called and the events it stored."""

    memory: Memory | CommandMemory = field(default_factory=Memory)
    order: CommandOrder = field(default_factory=Order)
    allowed: tuple[str, ...] = get_args(CommandName)
    now_s: float = NOW_S
    done: list[tuple[object, ...]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    fails: Callable[[], Exception] | None = None
    frames: tuple[str, ...] = ("abc-7",)
    pinned: PinAnswer = field(default_factory=lambda: PinAnswer(pinned=2, coming=1))

    def __post_init__(self) -> None:
        audit = AuditLog(
            lambda data: self.events.append(Event.model_validate_json(data)),
            device="edge-1",
            epoch="abc",
            monotonic_s=lambda: self.now_s,
        )
        self.desk = CommandDesk(
            ROOT,
            "edge-1",
            allowed=self.allowed,
            keys=(TrustedKey("release.pub", KEY.public_key(), demo=False),),
            memory=self.memory,
            order=self.order,
            actions=self._actions(),
            audit=audit,
            now_s=lambda: self.now_s,
        )

    def _actions(self) -> DeviceActions:
        return DeviceActions(
            report=self._report,
            replay=lambda epoch, first, last: self._do(last - first + 1, "replay", epoch, first, last),
            snapshot=lambda: self._do(None, "snapshot"),
            resend_frame=lambda result_id: self._do(result_id in self.frames, "frame", result_id),
            claim_part_id=lambda args: self._do(None, "part-id", args),
            label=lambda args, labeller: self._do(self.pinned, "label", args, labeller),
            order=lambda name, envelope: self._do(None, "order", name, envelope),
        )

    def _do(self, result: T, *what: object) -> T:
        if self.fails is not None:
            raise self.fails()
        self.done.append(what)
        return result

    def _report(self) -> DeviceReport:
        self._do(None, "status")
        return DeviceReport.model_validate(example("reply.status")["report"])

    def send(self, name: str, envelope: object, **more: object) -> CommandReply:
        """Send a command and return its reply."""
        reply = self.reply(name, json.dumps(envelope).encode(), **more)
        assert reply is not None
        return CommandReply.model_validate_json(reply.payload)

    def reply(self, name: str, payload: bytes, **more: object) -> Reply | None:
        """The desk's reply to a message with this payload."""
        message = {"retained": False, "response_topic": None, "correlation": None, **more}
        return self.desk.handle(Incoming(f"{ROOT}/cmd/{name}", payload, **message))  # type: ignore[arg-type]


def command(cmd_id: str = "c-1", /, **args: object) -> dict[str, object]:
    """An unsigned command without an expiry."""
    return {"cmdId": cmd_id, "args": args}


def signed(name: str, cmd_id: str = "c-1", /, **args: object) -> dict[str, object]:
    """A command signed for the bench's device, the first of its state, valid for a minute."""
    return counted(name, 1, cmd_id, **args)


def counted(
    name: str, counter: int | None, cmd_id: str | None = None, /, *, state: object = STATE, **args: object
) -> dict[str, object]:
    """A command with this counter, signed for this state."""
    order = {"stateId": state, "counter": counter}
    envelope: dict[str, object] = {
        **command(f"s-{counter}" if cmd_id is None else cmd_id, **args),
        **{key: value for key, value in order.items() if value is not None},
        "issuedAt": utc_from_unix_s(NOW_S - 1),
        "expiresAt": utc_from_unix_s(NOW_S + 60),
    }
    return {**envelope, "signature": signature_from_key(KEY, ROOT, name, envelope)}


THRESHOLDS = {"bundleId": "c0" * 32, "types": {"dent": 0.5}, "anomaly": 3.0}


def test_the_names_in_the_settings_are_those_of_the_table() -> None:
    assert tuple(COMMANDS) == get_args(CommandName)


def test_no_command_that_must_be_signed_is_allowed_unless_the_settings_name_it() -> None:
    assert not any(COMMANDS[name].signed for name in ALLOWED_UNLESS_SET)


def test_every_command_calls_its_action_once_and_is_recorded_as_an_event() -> None:
    bench = Bench()
    orders: list[tuple[CommandName, int, dict[str, object]]] = [
        ("arm", 7, {}),
        ("disarm", 8, {}),
        ("threshold", 9, THRESHOLDS),
    ]
    replies = [
        bench.send("status", command("1")),
        bench.send("replay", command("2", **{"epoch": "abc", "from": 3, "to": 5})),
        bench.send("snapshot", command("3")),
        bench.send("frame", command("4", resultId="abc-7")),
        bench.send("part-id", command("5", partId="P1", counter=42)),
        bench.send("label", {**command("6", partId="P1", label="dent"), "by": "quality-2"}),
        *(bench.send(kind, counted(kind, n, f"{n}", **args)) for kind, n, args in orders),
    ]
    assert [reply.outcome for reply in replies] == ["done"] * 9
    assert [reply.name for reply in replies] == list(COMMANDS)
    assert bench.done == [
        ("status",),
        ("replay", "abc", 3, 5),
        ("snapshot",),
        ("frame", "abc-7"),
        ("part-id", PartIdArgs.model_validate({"partId": "P1", "counter": 42})),
        ("label", LabelArgs.model_validate({"partId": "P1", "label": "dent"}), Labeller("quality-2", None)),
        *(("order", kind, counted(kind, n, f"{n}", **args)) for kind, n, args in orders),
    ]
    assert (replies[1].count, replies[5].count) == (3, 3)
    assert replies[0].report is not None
    audits = [event.command for event in bench.events if event.command is not None]
    assert [audit.cmd_id for audit in audits] == [str(n) for n in range(1, 10)]
    assert {event.fault for event in bench.events} == {FaultId.COMMAND_RUN}
    assert (audits[5].by, audits[5].signed_by, audits[8].signed_by) == ("quality-2", None, "release.pub")


def refusal(bench: Bench, name: str, envelope: object, **more: object) -> Refusal | None:
    """Send a command that has to be refused, without an action and with an event; returns the reason."""
    before = list(bench.done)
    reply = bench.send(name, envelope, **more)
    assert bench.done == before
    assert reply.outcome == "refused"
    assert bench.events[-1].fault is FaultId.COMMAND_REFUSED
    return reply.reason


@pytest.mark.parametrize(
    ("name", "envelope"),
    [
        ("status", []),
        ("status", {}),
        ("status", {"cmdId": ""}),
        ("status", {"cmdId": "a b"}),
        ("status", {**command(), "extra": 1}),
        ("status", command(verbose=True)),
        ("status", {**command(), "cmd_id": "c-1"}),
        ("status", {**command(), "by": "a\nb"}),
        ("status", {**command(), "expiresAt": "tomorrow"}),
        ("status", {**command(), "expiresAt": 1_800_000_000}),
        ("replay", command()),
        ("replay", command(**{"epoch": "abc", "from": 5, "to": 4})),
        ("replay", command(**{"epoch": "abc", "from": -1, "to": 4})),
        ("replay", command(**{"epoch": "../x", "from": 1, "to": 4})),
        ("frame", command(resultId="../../etc/passwd")),
        ("frame", command(resultId="abc-7\n")),
        ("label", command(label="dent")),
        ("label", command(label="dent", partId="P1", resultId="abc-1")),
        ("label", command(label="../dent", partId="P1")),
        ("threshold", signed("threshold", "t", bundleId="c0" * 32)),
        ("threshold", signed("threshold", "t", bundleId="c0" * 32, types={"dent": 1.5})),
        ("threshold", signed("threshold", "t", bundleId="c0" * 32, types={"dent": True})),
        ("threshold", signed("threshold", "t", bundleId="c0" * 32, anomaly=2.0, authority={"dent": "reject"})),
    ],
)
def test_an_envelope_that_does_not_fit_the_schema_is_refused(name: str, envelope: object) -> None:
    assert refusal(Bench(), name, envelope) is Refusal.INVALID


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"{", b'{"cmdId": NaN}', b'{"cmdId": "a", "cmdId": "b", "args": {}}', b"[" * 15_000, b"1" * 6000],
)
def test_a_payload_that_is_not_json_is_refused(payload: bytes) -> None:
    reply = Bench().reply("status", payload)
    assert reply is not None
    assert CommandReply.model_validate_json(reply.payload).reason is Refusal.NOT_JSON


def test_a_number_too_large_for_a_float_is_refused() -> None:
    reply = Bench().reply("threshold", b'{"cmdId":"a","args":{"bundleId":"%s","anomaly":1e999}}' % (b"c0" * 32))
    assert reply is not None
    assert CommandReply.model_validate_json(reply.payload).reason is Refusal.INVALID


def test_a_payload_that_is_too_large_is_refused() -> None:
    envelope = {**command(), "by": "x" * MAX_COMMAND_BYTES}
    assert refusal(Bench(), "status", envelope) is Refusal.TOO_LARGE


def test_a_retained_command_is_refused() -> None:
    assert refusal(Bench(), "snapshot", command(), retained=True) is Refusal.RETAINED


def test_an_unknown_command_and_one_that_the_settings_do_not_allow_are_refused() -> None:
    assert refusal(Bench(), "bundle", command()) is Refusal.NOT_ALLOWED
    assert refusal(Bench(allowed=("status",)), "snapshot", command()) is Refusal.NOT_ALLOWED


@pytest.mark.parametrize("topic", [f"{ROOT}/result", f"{ROOT}/cmd/", f"{ROOT}/cmd/a/b", "other/v1/cmd/status", ""])
def test_a_message_whose_topic_is_not_a_commands_gets_no_reply(topic: str) -> None:
    bench = Bench()
    assert bench.desk.handle(Incoming(topic, b"{}", False, None, None)) is None
    assert not bench.events


def test_an_expired_command_is_refused_and_one_in_time_is_not() -> None:
    bench = Bench()
    expired = {**command("a"), "expiresAt": utc_from_unix_s(NOW_S)}
    assert refusal(bench, "snapshot", expired) is Refusal.EXPIRED
    in_time = {**command("b"), "expiresAt": utc_from_unix_s(NOW_S + 0.001)}
    assert bench.send("snapshot", in_time).outcome == "done"


def test_with_a_clock_that_was_never_set_commands_that_expire_are_refused() -> None:
    bench = Bench(now_s=1000.0)
    assert refusal(bench, "disarm", signed("disarm")) is Refusal.CLOCK
    assert "1970-01-01" in bench.events[-1].detail
    assert bench.send("part-id", command("p", partId="P1", counter=1)).outcome == "done"


def test_a_command_from_the_future_is_refused() -> None:
    assert refusal(Bench(now_s=NOW_S - 3600), "disarm", signed("disarm")) is Refusal.CLOCK


def test_a_command_received_twice_is_executed_once() -> None:
    bench = Bench()
    assert bench.send("snapshot", command()).outcome == "done"
    assert refusal(bench, "snapshot", command()) is Refusal.DUPLICATE
    assert "(done)" in bench.events[-1].detail


def test_a_signed_command_is_executed_once_even_across_a_restart(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert Bench(memory=outbox.command_memory, now_s=NOW_S).send("disarm", signed("disarm")).outcome == "done"
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert (
            refusal(Bench(memory=outbox.command_memory, now_s=NOW_S), "disarm", signed("disarm")) is Refusal.DUPLICATE
        )


@pytest.mark.parametrize("name", [kind.name for kind in COMMANDS.values() if kind.signed])
def test_a_command_that_changes_decisions_needs_a_signature(name: str) -> None:
    args = THRESHOLDS if name == "threshold" else {}
    good = signed(name, "c-1", **args)
    bench = Bench()
    unsigned = {key: value for key, value in good.items() if key != "signature"}
    assert refusal(bench, name, unsigned) is Refusal.SIGNATURE
    by_stranger = {**unsigned, "signature": signature_from_key(STRANGER, ROOT, name, unsigned)}
    assert refusal(bench, name, by_stranger) is Refusal.SIGNATURE
    for_another = {**unsigned, "signature": signature_from_key(KEY, "acme/graz/line-2/edge-1/v1", name, unsigned)}
    assert refusal(bench, name, for_another) is Refusal.SIGNATURE
    as_another = {**unsigned, "signature": signature_from_key(KEY, ROOT, "status", unsigned)}
    assert refusal(bench, name, as_another) is Refusal.SIGNATURE
    for key, value in (("cmdId", "c-2"), ("expiresAt", utc_from_unix_s(NOW_S + 61)), ("by", "me")):
        assert refusal(bench, name, {**good, key: value}) is Refusal.SIGNATURE
    assert bench.send(name, good).outcome == "done"  # the forgeries did not use up its id


def test_an_older_command_that_arrives_late_is_superseded() -> None:
    bench = Bench()
    disarm, arm = counted("disarm", 1), counted("arm", 2)
    assert bench.send("arm", arm).outcome == "done"
    assert refusal(bench, "disarm", disarm) is Refusal.SUPERSEDED
    assert "its counter is 1, and 2 was accepted before" in bench.events[-1].detail
    assert refusal(bench, "disarm", counted("disarm", 2, "another-id")) is Refusal.SUPERSEDED
    assert bench.send("disarm", counted("disarm", 3)).outcome == "done"


def test_any_signed_command_counts_even_if_it_need_not_be_signed() -> None:
    bench = Bench()
    assert bench.send("label", counted("label", 9, label="good", partId="P1")).outcome == "done"
    assert refusal(bench, "disarm", counted("disarm", 8)) is Refusal.SUPERSEDED


def test_a_command_for_another_device_or_an_earlier_state_is_superseded() -> None:
    bench, other = Bench(), "0" * 32
    assert refusal(bench, "disarm", counted("disarm", 99, state=other)) is Refusal.SUPERSEDED
    detail = bench.events[-1].detail
    assert f"signed for the state {other}, and this device's is {STATE}" in detail
    assert "read stateId and commandCounter in the device's status" in detail
    assert bench.send("disarm", counted("disarm", 1)).outcome == "done"  # the other one's counter does not count


@pytest.mark.parametrize("envelope", [counted("arm", None, "a"), counted("arm", 1, state=None)])
def test_a_signed_command_of_an_earlier_sender_is_refused_with_what_it_lacks(envelope: dict[str, object]) -> None:
    bench = Bench()
    assert refusal(bench, "arm", envelope) is Refusal.INVALID
    assert "a signed command needs stateId and counter" in bench.events[-1].detail


@pytest.mark.parametrize("counter", [0, -1, 1 << 53, 1.5, True, "1"])
def test_a_counter_that_another_program_could_not_hold_exactly_is_invalid(counter: object) -> None:
    assert refusal(Bench(), "arm", {**counted("arm", 1), "counter": counter}) is Refusal.INVALID


def test_one_command_cannot_use_up_the_counters_even_if_its_signer_believed_a_forged_status() -> None:
    bench = Bench()
    assert refusal(bench, "arm", counted("arm", MAX_COUNTER_STEP + 1)) is Refusal.INVALID
    assert f"more than {MAX_COUNTER_STEP} above 0" in bench.events[-1].detail
    assert bench.send("arm", counted("arm", MAX_COUNTER_STEP)).outcome == "done"
    assert bench.send("disarm", counted("disarm", MAX_COUNTER_STEP + 1)).outcome == "done"


def test_counter_and_state_are_signed() -> None:
    bench, order = Bench(), counted("arm", 1)
    for change in ({"counter": 2}, {"stateId": "0" * 32}):
        assert refusal(bench, "arm", {**order, **change}) is Refusal.SIGNATURE
    assert bench.send("arm", order).outcome == "done"


def test_an_unsigned_command_does_not_use_up_the_id_of_a_signed_one() -> None:
    bench = Bench()
    assert bench.send("snapshot", command("s-1")).outcome == "done"
    assert bench.send("disarm", counted("disarm", 1, "s-1")).outcome == "done"
    assert refusal(bench, "disarm", counted("disarm", 1, "s-1")) is Refusal.DUPLICATE
    assert bench.send("disarm", counted("disarm", 2, "s-2")).outcome == "done"
    assert bench.send("snapshot", command("s-2")).outcome == "done"


def test_after_a_lost_outbox_no_signed_command_runs_again(tmp_path: Path) -> None:
    state = tmp_path / "command-state.json"
    first = CommandState(state)
    order = counted("disarm", 1, state=first.position.state_id)
    assert Bench(order=first).send("disarm", order).outcome == "done"
    again = Bench(order=CommandState(state))  # with another memory, as after the loss of the outbox
    assert refusal(again, "disarm", order) is Refusal.SUPERSEDED


def test_a_command_whose_counter_cannot_be_stored_is_not_carried_out(tmp_path: Path) -> None:
    state = CommandState(tmp_path / "state" / "command-state.json")  # the folder does not exist
    bench = Bench(order=state)
    reply = bench.send("disarm", counted("disarm", 1, state=state.position.state_id))
    assert (reply.outcome, reply.reason) == ("failed", Refusal.IMPOSSIBLE)
    assert "counter of signed commands cannot be stored" in reply.text
    assert not bench.done


def test_questions_do_not_use_up_the_record_of_changes() -> None:
    bench = Bench()
    for number in range(2 * MAX_A_MINUTE):
        bench.send(("status", "snapshot", "nonsense")[number % 3], command(f"q-{number}"))
        bench.send("part-id", command(f"p-{number}", partId="P1", counter=number))
    bench.events.clear()
    bench.send("label", command("l-1", partId="P1", label="dent"))
    assert [event.command.name for event in bench.events if event.command] == ["label"]


def test_a_signed_command_played_back_a_thousand_times_does_not_flood_the_outbox() -> None:
    bench = Bench()
    for _ in range(10 * MAX_A_MINUTE):
        bench.send("arm", counted("arm", 1))
    assert len(bench.events) == MAX_A_MINUTE + 1


def test_a_label_that_needs_a_key_is_refused_for_its_signature() -> None:
    bench = Bench()
    bench.fails = lambda: NeedsKeyError("result abc-7 is labelled 'dent'")
    reply = bench.send("label", command("l", partId="P1", label="good"))
    assert (reply.outcome, reply.reason) == ("refused", Refusal.SIGNATURE)


def test_a_demo_key_is_accepted_for_commands_with_a_demo_bundle_only() -> None:
    demo, release = (
        TrustedKey(name, KEY.public_key(), demo=name == "demo.pub") for name in ("demo.pub", "release.pub")
    )
    assert keys_for_commands((demo, release), demo_bundle=False) == (release,)
    assert keys_for_commands((demo, release), demo_bundle=True) == (demo, release)


def test_changed_arguments_break_the_signature() -> None:
    bench, good = Bench(), signed("threshold", "c-1", **THRESHOLDS)
    assert refusal(bench, "threshold", {**good, "args": {**THRESHOLDS, "anomaly": 99.0}}) is Refusal.SIGNATURE


@pytest.mark.parametrize(
    "changes", [{"issuedAt": None}, {"expiresAt": None}, {"expiresAt": utc_from_unix_s(NOW_S + 2e5)}]
)
def test_a_signed_command_needs_both_times_and_a_short_lifetime(changes: dict[str, str | None]) -> None:
    envelope = {key: value for key, value in {**signed("arm"), **changes}.items() if value is not None}
    assert refusal(Bench(), "arm", envelope) is Refusal.INVALID


def test_a_signature_that_is_not_required_is_verified_too() -> None:
    assert refusal(Bench(), "status", {**signed("arm"), "by": "x"}) is Refusal.SIGNATURE
    assert Bench().send("status", signed("status")).outcome == "done"


def test_the_reason_of_a_failure_is_in_the_reply_but_not_the_text_of_an_internal_error() -> None:
    bench = Bench(frames=())
    reply = bench.send("frame", command("a", resultId="abc-7"))
    assert (reply.outcome, reply.reason) == ("failed", Refusal.IMPOSSIBLE)
    bench.fails = lambda: ProcunitError("another epoch")
    assert bench.send("replay", command("b", **{"epoch": "f", "from": 1, "to": 1})).text == "another epoch"
    bench.fails = lambda: RuntimeError("secret")
    reply = bench.send("snapshot", command("c"))
    assert (reply.outcome, reply.reason) == ("failed", Refusal.FAILED)
    assert "secret" not in reply.text


def test_the_reply_goes_to_the_commands_own_topic_or_below_it() -> None:
    bench, own = Bench(), f"{ROOT}/cmd/status/reply"
    requested_and_used = {
        None: own,
        f"{own}/mes-1": f"{own}/mes-1",
        f"{ROOT}/result": own,
        f"{ROOT}/cmd/disarm": own,
        f"{own}/#": own,
        f"{own}/+/x": own,
        f"{own}/{'x' * 600}": own,
        "elsewhere": own,
    }
    for number, (requested, used) in enumerate(requested_and_used.items()):
        payload = json.dumps(command(f"c-{number}")).encode()
        reply = bench.reply("status", payload, response_topic=requested, correlation=b"\x00\x01")
        assert reply is not None
        assert (reply.topic, reply.correlation) == (used, b"\x00\x01")


def test_a_flood_of_commands_does_not_flood_the_outbox() -> None:
    bench = Bench()
    for number in range(10 * MAX_A_MINUTE):
        bench.send("nonsense", command(str(number)))
    assert len(bench.events) == MAX_A_MINUTE
    assert bench.send("disarm", signed("disarm")).outcome == "done"
    assert f"({9 * MAX_A_MINUTE} earlier commands were not recorded)" in bench.events[-1].detail
    bench.now_s += 61
    bench.send("nonsense", command("later"))
    assert len(bench.events) == MAX_A_MINUTE + 2


NAMES = st.sampled_from([*COMMANDS, "bundle", "x/y", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(name=NAMES, payload=st.binary(max_size=200), requested=st.none() | st.text(), correlation=st.binary(max_size=20))
def test_no_random_bytes_are_executed_or_raise(
    name: str, payload: bytes, requested: str | None, correlation: bytes
) -> None:
    bench = Bench()
    bench.reply(name, payload, response_topic=requested, correlation=correlation)
    assert not bench.done


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutated_command_raises_or_changes_a_decision(data: st.DataObject) -> None:
    name, envelope = data.draw(st.sampled_from(request_examples()))
    where = data.draw(st.sampled_from([envelope, envelope["args"]]))
    assert isinstance(where, dict)
    where[data.draw(st.sampled_from([*where, "extra", "signature", "by"]))] = data.draw(JSON)
    bench = Bench()
    reply = bench.reply(name, json.dumps(envelope).encode())
    assert reply is not None
    CommandReply.model_validate_json(reply.payload)
    assert not [what for what in bench.done if what[0] == "order"]
