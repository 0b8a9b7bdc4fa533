"""`procunit command sign`: it prints a command that a device accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paho.mqtt import publish

from edge.bundle.keys import DEMO_MARK, TrustedKey
from edge.cli.command import sign
from edge.commands.signature import signer_of_command
from edge.contract.payloads import Status, bytes_from_payload
from edge.errors import ProcunitError
from edge.system.clock import unix_s_from_utc
from tests.contract.examples import example
from tests.support.broker import Broker
from tests.support.device import ROOT as DEMO_ROOT
from tests.support.device import new_device

ROOT = "acme/graz/line-1/edge-1/v1"
KEY = Ed25519PrivateKey.generate()
STATE = "5f0c1a2b3c4d5e6f8091a2b3c4d5e6f7"
ORDER = ("--state-id", STATE, "--counter", "8")
ARGS = {"bundleId": "c0" * 32, "types": {"dent": 0.45}, "anomaly": 3.1}


def run(
    folder: Path,
    *arguments: str,
    args: str = json.dumps(ARGS),
    root: str = ROOT,
    order: tuple[str, ...] = ORDER,
    mark: bytes = b"",
) -> Result:
    key = folder / "release.key"
    key.write_bytes(mark + KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (folder / "args.json").write_text(args)
    return CliRunner().invoke(sign, [*arguments, "--root", root, "--key", str(key), *order])


def test_it_prints_a_command_that_the_device_accepts(tmp_path: Path) -> None:
    result = run(tmp_path, "threshold", str(tmp_path / "args.json"), "--by", "m.huber", "--valid-min", "5")
    assert result.exit_code == 0
    envelope = json.loads(result.output)
    trusted = TrustedKey("release.pub", KEY.public_key(), demo=False)
    assert (envelope["args"], envelope["stateId"], envelope["counter"]) == (ARGS, STATE, 8)
    assert signer_of_command(ROOT, "threshold", envelope, envelope["signature"], (trusted,)) is trusted
    assert unix_s_from_utc(envelope["expiresAt"]) - unix_s_from_utc(envelope["issuedAt"]) == pytest.approx(
        300, abs=0.01
    )


def test_two_commands_never_share_an_id(tmp_path: Path) -> None:
    ids = {json.loads(run(tmp_path, "disarm").output)["cmdId"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("args", "root", "problem"),
    [
        ("{", ROOT, "the arguments are not JSON"),
        ("[]", ROOT, "key args"),
        (json.dumps({**ARGS, "authority": "reject"}), ROOT, "key args.authority"),
        (json.dumps(ARGS), "edge-1", "is not a root of topics"),
        (json.dumps(ARGS), f"{ROOT}/cmd", "is not a root of topics"),
    ],
)
def test_a_command_that_the_device_would_refuse_is_not_signed(
    tmp_path: Path, args: str, root: str, problem: str
) -> None:
    result = run(tmp_path, "threshold", str(tmp_path / "args.json"), args=args, root=root)
    assert isinstance(result.exception, ProcunitError)
    assert problem in str(result.exception)
    assert "signature" not in result.output


def test_a_command_signed_with_a_demo_key_says_where_it_works(tmp_path: Path) -> None:
    result = run(tmp_path, "disarm", mark=DEMO_MARK)
    assert f"{tmp_path / 'release.key'} is a demo key: a device takes this command only while it" in result.stderr
    assert json.loads(result.stdout)["signature"]
    assert run(tmp_path, "disarm").stderr == ""


def test_a_key_that_others_can_read_signs_nothing(tmp_path: Path) -> None:
    run(tmp_path, "disarm")
    (tmp_path / "release.key").chmod(0o644)
    result = CliRunner().invoke(sign, ["disarm", "--root", ROOT, "--key", str(tmp_path / "release.key"), *ORDER])
    assert isinstance(result.exception, ProcunitError)
    assert f"Run: chmod 600 {tmp_path / 'release.key'}" in str(result.exception)
    assert "signature" not in result.output


@pytest.mark.parametrize("order", [(), ORDER[:2], ORDER[2:], (*ORDER, "--config", "line.yaml")])
def test_without_state_id_and_counter_it_says_where_they_are(tmp_path: Path, order: tuple[str, ...]) -> None:
    result = run(tmp_path, "disarm", order=order)
    assert "needs the device's root, state id and counter. Give --config" in str(result.exception)
    assert "a number above `commandCounter` there" in str(result.exception)


def test_a_state_id_that_is_none_is_not_signed(tmp_path: Path) -> None:
    assert "key stateId" in str(run(tmp_path, "disarm", order=("--state-id", "5f0c", "--counter", "1")).exception)


def signed_from(folder: Path, broker: Broker) -> Result:
    device = new_device(folder, broker.port, 1)
    arguments = ["disarm", "--config", str(device.config), "--key", str(device.folder / "demo-key.pem")]
    return CliRunner().invoke(sign, arguments)


def test_with_the_broker_it_reads_them_from_the_devices_retained_status(tmp_path: Path, broker: Broker) -> None:
    payload = bytes_from_payload(Status.model_validate({**example("status.running"), "commandCounter": 41}))
    publish.single(f"{DEMO_ROOT}/status", payload, 1, True, broker.host, broker.port)
    result = signed_from(tmp_path / "device", broker)
    assert result.exit_code == 0, result.exception
    envelope = json.loads(result.stdout)
    assert (envelope["stateId"], envelope["counter"]) == (STATE, 42)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (None, "the device's retained status cannot be read: none within 0.5 s"),
        ("offline", "the device's status (offline) has no stateId and commandCounter. Wait until the device is"),
        ("running", "the device's status (running) has no stateId and commandCounter. Update the device"),
    ],
)
def test_without_a_usable_status_there_is_a_clear_error(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, status: str | None, problem: str
) -> None:
    monkeypatch.setattr("edge.commands.client.STATUS_TIMEOUT_S", 0.5)
    if status is not None:
        of_earlier_version = {**example(f"status.{status}"), "stateId": None, "commandCounter": None}
        publish.single(f"{DEMO_ROOT}/status", json.dumps(of_earlier_version), 1, True, broker.host, broker.port)
    result = signed_from(tmp_path / "device", broker)
    assert problem in str(result.exception)
    assert f"{DEMO_ROOT}/status" in str(result.exception)
