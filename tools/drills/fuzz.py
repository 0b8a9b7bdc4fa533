"""Feeds a million invalid inputs to the device's readers of external data: commands and the settings file.

The inputs are mutations of valid ones (bytes flipped, cut, repeated, spliced; values replaced), reproducible by seed.
The drill fails on an unhandled exception, on an invalid reply, and on a decision that was changed without a key.

    python -m tools.drills.fuzz --inputs 1000000
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.bundle.keys import TrustedKey
from edge.cli.program import run_program
from edge.commands.audit import AuditLog
from edge.commands.command_state import Position
from edge.commands.desk import CommandDesk
from edge.commands.table import COMMANDS, DeviceActions, Envelope
from edge.config.file import ConfigError, settings_from_file
from edge.contract.commands import CommandName, CommandReply, DeviceReport, LabelArgs, PartIdArgs
from edge.frames.labels import Labeller
from edge.line.part_ids import PartIds
from edge.messages import PinAnswer
from edge.mqtt.inlet import Incoming
from edge.system.clock import unix_s_from_utc
from edge.terminal import echo
from tools.contract.schemas import EXAMPLES_DIR

ROOT = "acme/graz/line-1/edge-1/v1"
NOW_S = unix_s_from_utc("2026-11-22T19:05:01Z")
"""A time at which the examples are valid."""
SETTINGS = """\
device: {enterprise: acme, site: graz, line: line-1, device: edge-1}
bundle: {path: bundle, trusted_keys: [release.pub]}
camera: {kind: replay, path: photos, parts_per_min: 120, at_end: hold}
mqtt: {host: broker.plant.example, port: 8883, username: edge-1, password_file: password, keepalive_s: 10}
policy: {review_action: divert, audit_rate: 0.01}
engine: {threads: 0}
inspection: {frame_slots: 4, deadline_s: 2.0}
frames: {quota_mb: 2048}
state_dir: state
"""
_SPLICES = (
    *(bytes([mark]) for mark in b'{}[]":,#%&*|?-'),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\ud800", b"\t", b"\n"),
    *(b"null", b"true", b"NaN", b"1e999", b"-1", b"0x10", b"9" * 400, b"2026-02-30T25:61:61Z", b"../.."),
    *(b"!!python/object:os.system", b"&a", b"*a", b"<<: ", b"[" * 40, b"{a: " * 20),
)

_VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 2**63, 10**400, "", "x" * 300, "\ud800", "a\nb", "\x00", "../x"),
    *("P1", "dent", "A" * 86 + "=="),
    *("abc-1", "abc", "c0" * 32, "2026-11-22T19:00:00Z", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00Z"),
    *([], [[]], {}, {"dent": 0.5}, {"dent": float("inf")}, {"\ud800": 1}, {"from": 1}),
)


class Desk:
    """A command desk whose actions count every changed decision."""

    def __init__(self) -> None:
        self.changed = 0
        part_ids = PartIds()
        actions = DeviceActions(
            report=_report,
            replay=lambda _epoch, first, last: last - first + 1,
            snapshot=lambda: None,
            resend_frame=lambda result_id: result_id.endswith("2"),
            claim_part_id=lambda args: _claim(part_ids, args),
            label=_label,
            order=self._note_order,
        )
        audit = AuditLog(lambda _event: None, device="edge-1", epoch="abc")
        key = TrustedKey("release.pub", Ed25519PrivateKey.generate().public_key(), demo=False)
        self._desk = CommandDesk(
            ROOT,
            "edge-1",
            allowed=list(COMMANDS),
            keys=(key,),
            memory=self,
            order=self,
            actions=actions,
            audit=audit,
            now_s=lambda: NOW_S,
        )

    def seen(self, cmd_id: str) -> bool:
        """Report every command as new, so that every input is processed as far as possible."""
        return not cmd_id

    def remember(self, cmd_id: str, expires_at: datetime) -> None:
        """Do not remember the command."""

    @property
    def position(self) -> Position:
        """A state in which no command was accepted."""
        return Position("5f0c1a2b3c4d5e6f5f0c1a2b3c4d5e6f", 0)

    def accept(self, counter: int) -> None:
        """Do not record the counter, so that every input is processed as far as possible."""

    def take(self, data: bytes, rng: random.Random) -> str:
        """Process an input; returns the outcome."""
        matching = [name for name in COMMANDS if _id_of(name) in data]
        name = rng.choice(matching or [*COMMANDS, "x"])
        data = data.replace(_id_of(name), f'"cmdId": "{rng.getrandbits(64)}"'.encode())
        reply_topic = rng.choice([None, f"{ROOT}/cmd/{name}/reply/a", data[:40].decode("latin-1")])
        reply = self._desk.handle(Incoming(f"{ROOT}/cmd/{name}", data, rng.random() < 0.01, reply_topic, data[:8]))
        if reply is None or not reply.topic.startswith(f"{ROOT}/cmd/{name}/reply"):
            raise AssertionError("there is no reply, or its topic is wrong")
        answer = CommandReply.model_validate_json(reply.payload)
        if answer.reason is not None and answer.reason.value == "failed":
            raise AssertionError("an exception was caught at the boundary; see the log")
        if self.changed:
            raise AssertionError("a decision was changed without a key")
        return f"command {answer.reason.value if answer.reason else answer.outcome}"

    def _note_order(self, _name: CommandName, _envelope: Envelope) -> None:
        self.changed += 1


def _report() -> DeviceReport:
    reply = json.loads((EXAMPLES_DIR / "reply.status.json").read_text(encoding="utf-8"))
    return DeviceReport.model_validate(reply["report"])


def _claim(part_ids: PartIds, args: PartIdArgs) -> str | None:
    problem = part_ids.claim(args)
    part_ids.bind(args.counter or 0, args.after)
    return problem


def _label(args: LabelArgs, _labeller: Labeller) -> PinAnswer:
    return PinAnswer(pinned=len(args.label))


def _id_of(name: str) -> bytes:
    return f'"cmdId": "{name}"'.encode()


def _command(path: Path) -> bytes:
    """An example whose cmdId is the name of its command."""
    name = path.name.removeprefix("command-").partition(".")[0]
    return json.dumps({**json.loads(path.read_bytes()), "cmdId": name}).encode()


def settings_reader(folder: Path) -> Callable[[bytes, random.Random], str]:
    """A function that reads settings; the unmodified text is valid."""
    for name in ("bundle", "photos"):
        (folder / name).mkdir()
    for name in ("release.pub", "password", "photos/1.png"):
        (folder / name).write_text("x")
    (folder / "password").chmod(0o600)
    path = folder / "line.yaml"

    def take(data: bytes, _rng: random.Random) -> str:
        path.write_bytes(data)
        try:
            settings_from_file(path)
        except ConfigError as error:
            str(error)
            return "settings refused"
        return "settings accepted"

    if take(SETTINGS.encode(), random.Random(0)) != "settings accepted":  # noqa: S311  (no secret)
        raise AssertionError("the unchanged settings are not valid")
    return take


def mutants(seeds: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Valid inputs changed in a few places, and some random bytes."""
    while True:
        if rng.random() < 0.05:
            yield rng.randbytes(rng.randrange(200))
            continue
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 6))):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at : at + rng.randrange(1, 20)]
                case 2:
                    data[at:at] = data[at : at + rng.randrange(1, 60)]
                case 3:
                    data[at:at] = rng.choice(_SPLICES)
                case _:
                    other = rng.choice(seeds)
                    start = rng.randrange(len(other))
                    data[at : at + rng.randrange(20)] = other[start : start + rng.randrange(1, 40)]
        yield bytes(data)


def json_mutants(seeds: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Commands that are still valid JSON, with one value or key replaced, added or removed."""
    while True:
        envelope = json.loads(rng.choice(seeds))
        where = rng.choice([envelope, envelope["args"]])
        key = rng.choice([*where, "extra", "signature", "expiresAt", "counter", "types"])
        if rng.random() < 0.2:
            where.pop(key, None)
        else:
            where[key] = rng.choice(_VALUES)
        yield json.dumps(envelope).encode()


def both(first: Iterator[bytes], second: Iterator[bytes]) -> Iterator[bytes]:
    """Alternate between two sources."""
    for pair in zip(first, second, strict=False):
        yield from pair


@click.command()
@click.option("--inputs", type=click.IntRange(min=2), default=1_000_000, help="Number of inputs, half of each kind.")
@click.option("--seed", type=int, default=1, help="The same seed gives the same inputs.")
def main(inputs: int, seed: int) -> None:
    """Process all inputs; at the first failure, print its input and exit with 1."""
    rng = random.Random(seed)  # noqa: S311  (no secret)
    commands = [_command(path) for path in sorted(EXAMPLES_DIR.glob("command-*.json"))]
    began_s, outcomes = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        kinds = (
            (both(mutants(commands, rng), json_mutants(commands, rng)), Desk().take),
            (mutants([SETTINGS.encode()], rng), settings_reader(Path(folder))),
        )
        for number in range(inputs):
            source, take = kinds[number % 2]
            data = next(source)
            try:
                outcomes[take(data, rng)] += 1
            except Exception as error:
                raise SystemExit(f"input {number} of seed {seed}: {type(error).__name__}: {error}\n{data!r}") from error
    for what, count in sorted(outcomes.items()):
        echo(f"{what}: {count}")
    echo(f"{inputs} inputs in {time.monotonic() - began_s:.0f} s, seed {seed}: no exception, no decision changed")


if __name__ == "__main__":
    run_program(main, "fuzz")
