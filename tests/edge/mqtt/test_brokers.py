"""The broker configuration of docs/mosquitto: it starts, and gives each device access to its own topics only."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
