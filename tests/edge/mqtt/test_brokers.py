"""The broker of docs/mosquitto: its certificates are accepted, and each device has access to its own topics only."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from edge.contract.topics import DeviceSettings, root_from_device
from edge.mqtt.check import check, published_topics
from edge.mqtt.settings import MqttSettings
from tests.support.broker import HOST, Broker
from tests.support.certificates import Authority

DOCS = Path(__file__).parents[3] / "docs/mosquitto"
EDGE_1 = DeviceSettings(enterprise="acme", site="graz", line="line-1", device="edge-1")
EDGE_2 = DeviceSettings(enterprise="acme", site="graz", line="line-1", device="edge-2")


def documented_broker(folder: Path, authority: Authority) -> Broker:
    """mosquitto with the documented configuration, its paths moved to `folder`."""
    broker = Broker(folder)
    authority.issue("broker")
    (folder / "plant-ca.pem").write_bytes(authority.ca_file.read_bytes())
    (folder / "procunit-acl").write_text((DOCS / "procunit-acl").read_text())
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(folder / "procunit-passwords"), "edge-1", "p"], check=True)
    text = (DOCS / "mosquitto.conf").read_text()
    for path in ("/etc/mosquitto/certs", "/etc/mosquitto", "/var/lib/mosquitto"):
        text = text.replace(path, str(folder))
    broker.replace_configuration(text.replace("listener 8883", f"listener {broker.port} {HOST}"))
    return broker


def test_the_documented_broker_gives_a_device_access_to_its_own_topics_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("edge-1")
    password_file = tmp_path / "password"
    password_file.write_text("p")
    password_file.chmod(0o600)
    broker = documented_broker(tmp_path, authority)
    settings = MqttSettings(
        host=HOST,
        port=broker.port,
        username="edge-1",
        password_file=password_file,
        tls_ca_file=authority.ca_file,
        client_cert_file=certificate,
        client_key_file=key,
    )
    broker.start()
    try:
        own = list(check(settings, "edge-1", root_from_device(EDGE_1)))
        others = list(check(settings, "edge-1", root_from_device(EDGE_2)))
    finally:
        broker.kill()
    assert [f for f in own if f.outcome == "failed"] == []
    refused = [f for f in others if f.step == "may publish"]
    assert len(refused) == len(published_topics(root_from_device(EDGE_2)))
    assert {f.outcome for f in refused} == {"failed"}


HOST_NAME = "broker.plant.example"
_create_default_context = ssl.create_default_context
_VERIFY_X509_PARTIAL_CHAIN = 0x80000


def documented_certificates(folder: Path, *, as_before: bool) -> None:
    """Run the commands of the page; `as_before` leaves out the key usage of the authority, which it did not have."""
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    step = page.partition("1. Certificates")[2].partition("\n2. ")[0]
    commands = "\n".join(re.findall(r"```\n(.*?)```", step, re.DOTALL))
    assert commands.count("openssl ") == 5
    if as_before:
        commands = re.sub(r' -addext "[^"]*"', "", commands)
    subprocess.run(["bash", "-e"], input=commands, text=True, cwd=folder, check=True, capture_output=True)


def strict_context(cafile: str) -> ssl.SSLContext:
    """What `ssl.create_default_context` makes on Python 3.13."""
    context = _create_default_context(cafile=cafile)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | _VERIFY_X509_PARTIAL_CHAIN
    return context


@pytest.mark.parametrize("as_before", [False, True])
def test_the_documented_certificates_are_accepted_by_the_rules_of_python_3_13(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_before: bool
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(ssl, "create_default_context", strict_context)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: resolve(HOST if host == HOST_NAME else host, *a, **k)
    )
    broker = documented_broker(tmp_path, Authority(tmp_path))
    documented_certificates(tmp_path, as_before=as_before)
    (tmp_path / "password").write_text("p")
    for secret in ("password", "edge-1.key", "broker.key"):
        (tmp_path / secret).chmod(0o600)
    settings = MqttSettings(
        host=HOST_NAME,
        port=broker.port,
        username="edge-1",
        password_file=tmp_path / "password",
        tls_ca_file=tmp_path / "plant-ca.pem",
        client_cert_file=tmp_path / "edge-1.pem",
        client_key_file=tmp_path / "edge-1.key",
    )
    broker.start()
    try:
        found = list(check(settings, "edge-1", root_from_device(EDGE_1)))
    finally:
        broker.kill()
    failed = [finding for finding in found if finding.outcome == "failed"]
    if as_before:
        assert [finding.step for finding in failed] == ["tls"]
        assert "key usage" in failed[0].detail
        assert "make them again as docs/mosquitto/README.md says" in failed[0].detail
    else:
        assert failed == []
        assert len([finding for finding in found if finding.step == "may publish"]) == len(published_topics("x"))
