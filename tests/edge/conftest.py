"""Fixtures for the tests of the whole daemon and of a growing memory bank."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.bundle.keys import trusted_key_from_file
from edge.bundle.reader import Bundle, open_bundle
from tests.support.broker import free_port
from tests.support.device import PATIENT, Device, new_device
from tests.support.tiny_bundle import build_tiny_bundle


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with 20 photographs and no broker."""
    return new_device(tmp_path / "device", free_port(), 20)


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker, the daemon does not wait at its end."""
    monkeypatch.setattr("edge.daemon.STALLED_S", 0.0)
    monkeypatch.setattr("edge.mqtt.publisher.SEND_S", 0.0)
    monkeypatch.setattr("edge.camera.driver._FIRST_PAUSE_S", 0.02)


@pytest.fixture(scope="session")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose memory bank can grow; tests only read it."""
    tiny = build_tiny_bundle(tmp_path_factory.mktemp("growing"), grows=True)
    return open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))


@pytest.fixture
def growing_device(tmp_path: Path) -> Device:
    """A device whose bank may be grown with the key `line-bank.pem`; it has no photographs and no broker yet."""
    device = Device(tmp_path / "device", free_port())
    build_tiny_bundle(device.folder, grows=True)
    device.photos.mkdir()
    key = Ed25519PrivateKey.from_private_bytes(b"\5" * 32)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (device.folder / "line-bank.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (device.folder / "line-bank.pem").chmod(0o600)
    (device.folder / "line-bank.pub").write_bytes(public)
    bundle = {"path": "bundle", "demo_keys": ["demo-key.pub"], "bank_keys": ["line-bank.pub"]}
    device.sections = {"bundle": bundle, "inspection": PATIENT, "policy": {"audit_rate": 0.0}}
    device.write_settings()
    return device
