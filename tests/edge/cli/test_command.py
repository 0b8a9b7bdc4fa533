"""`procunit command sign`: it prints a command that a device accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge.bundle.keys import DEMO_MARK, TrustedKey
from edge.cli.command import sign
from edge.commands.signature import signer_of_command
from edge.errors import ProcunitError
from edge.system.clock import unix_s_from_utc

ROOT = "acme/graz/line-1/edge-1/v1"
KEY = Ed25519PrivateKey.generate()
ARGS = {"bundleId": "c0" * 32, "types": {"dent": 0.45}, "anomaly": 3.1}


def run(folder: Path, *arguments: str, args: str = json.dumps(ARGS), root: str = ROOT, mark: bytes = b"") -> Result:
    key = folder / "release.key"
    key.write_bytes(mark + KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (folder / "args.json").write_text(args)
    return CliRunner().invoke(sign, [*arguments, "--root", root, "--key", str(key)])


def test_it_prints_a_command_that_the_device_accepts(tmp_path: Path) -> None:
    result = run(tmp_path, "threshold", str(tmp_path / "args.json"), "--by", "m.huber", "--valid-min", "5")
    assert result.exit_code == 0
    envelope = json.loads(result.output)
    trusted = TrustedKey("release.pub", KEY.public_key(), demo=False)
    assert envelope["args"] == ARGS
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
    result = CliRunner().invoke(sign, ["disarm", "--root", ROOT, "--key", str(tmp_path / "release.key")])
    assert isinstance(result.exception, ProcunitError)
    assert f"Run: chmod 600 {tmp_path / 'release.key'}" in str(result.exception)
    assert "signature" not in result.output
