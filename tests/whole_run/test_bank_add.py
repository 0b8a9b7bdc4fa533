"""A false alarm of a bundle that the offline stages made, cleared at the line by `procunit bank add`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.cli.main import root
from edge.image_file import read_image
from edge.messages import Verdict
from tests.export.trained import trained_run
from tests.support.broker import Broker, Subscriber
from tests.support.device import PATIENT, Device

GOOD_PARTS, STAINED = 20, ("01-0", "07-1")
FRAMES = ("spot", *STAINED)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(*arguments: str | Path) -> str:
    """A command of the product, in this process; its output."""
    done = CliRunner().invoke(root, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle from training to sealing, photographs of its line, and a key that may grow its bank."""
    folder = tmp_path_factory.mktemp("grown")
    run = trained_run(folder, GOOD_PARTS, {"spot": 7})
    command("export", run, "--bank-rows", "200")
    command("calibrate", run)
    command("bundle", "build", run, "--out", folder / "bundle")
    (folder / "photos").mkdir()
    shutil.copyfile(folder / "data/spot/00-0.png", folder / "photos/0-spot.png")
    for number, name in enumerate(STAINED, start=1):
        image = read_image(folder / f"data/good/{name}.png")
        image[20:40, 20:60] += np.uint8(12)
        cv2.imwrite(str(folder / f"photos/{number}-{name}.png"), image)
    key = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "bank.pem").write_bytes(pem)
    (folder / "bank.pem").chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "bank.pub").write_bytes(public)
    return folder


def verdicts(device: Device, broker: Broker) -> dict[str, Verdict]:
    """Each photograph's verdict in a run of the daemon over all of them, from the first one on."""
    for path in (device.folder / "state").glob("outbox.db*"):
        path.unlink()
    with Subscriber(broker, "+/+/v1/result") as subscriber:
        assert device.run() == 0, device.log_text
        received = subscriber.wait_for(lambda messages: len(messages) >= len(FRAMES))
    results = [json.loads(message.payload) for message in received]
    return {name: Verdict(result["verdict"]) for name, result in zip(FRAMES, results, strict=True)}


def test_a_cleared_false_alarm_passes_from_then_on_and_a_defect_does_not(folder: Path, broker: Broker) -> None:
    device = Device(folder, broker.port, {"at_end": "stop"})
    keys = {"demo_keys": ["run/demo-key.pub"], "bank_keys": ["bank.pub"]}
    device.sections = {"bundle": {"path": "bundle", **keys}, "inspection": PATIENT, "policy": {"audit_rate": 0.0}}
    device.write_settings()
    assert verdicts(device, broker) == dict.fromkeys(FRAMES, Verdict.REVIEW)
    cleared = [folder / f"photos/{number}-{name}.png" for number, name in enumerate(STAINED, start=1)]
    output = command("bank", "add", "--config", device.config, "--key", folder / "bank.pem", "--yes", *cleared)
    assert "Version 1 of the memory bank is in use" in output
    after = verdicts(device, broker)
    assert after == {"spot": Verdict.REVIEW, **dict.fromkeys(STAINED, Verdict.PASS)}
