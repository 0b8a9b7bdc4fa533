"""The sample receiver with a real broker over TLS: every result once, gaps reported, also after its restart."""

from __future__ import annotations

import datetime
import ipaddress
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from tests.contract.examples import example
from tests.support.broker import Broker, running_broker
from tools.mes_subscriber import Numbers

ROOT = "acme/graz/line-1/edge-1/v1"
PROGRAM = Path(__file__).parents[2] / "tools/mes_subscriber.py"


@given(st.lists(st.integers(1, 30)))
def test_each_number_is_new_once_and_gaps_are_the_missing_numbers(numbers: list[int]) -> None:
    known, expected = Numbers(), set()
    for number in numbers:
        assert known.add(number) == (number not in expected)
        expected.add(number)
    missing = {n for first, last in known.gaps() for n in range(first, last + 1)}
    assert missing == (set(range(min(expected), max(expected) + 1)) - expected if expected else set())


def self_signed(folder: Path) -> None:
    """Write a self-signed certificate for the loopback address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "broker.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "broker.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Receiving:
    """The running program."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._folder = folder
        self._out = (folder / "out").open("ab")
        self._stderr = (folder / "stderr_text").open("ab")
        before = self.stderr_text.count("receiving")
        tls = ["--ca", str(folder / "broker.pem"), "--ids", str(folder / "ids.json")]
        address = ["--host", broker.host, "--port", str(broker.port), "--root", ROOT]
        command = [sys.executable, str(PROGRAM), *address, *tls]
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._stderr)
        self.wait(lambda: self.stderr_text.count("receiving") > before)

    @property
    def stderr_text(self) -> str:
        return (self._folder / "stderr_text").read_text()

    @property
    def seqs(self) -> list[int]:
        return [json.loads(line)["seq"] for line in (self._folder / "out").read_text().splitlines()]

    def wait(self, condition) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.stderr_text
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0
        self._out.close()
        self._stderr.close()


def test_every_result_once_and_gaps_reported_over_tls_and_a_restart(tmp_path: Path) -> None:
    self_signed(tmp_path)
    extra = f"certfile {tmp_path}/broker.pem\nkeyfile {tmp_path}/broker.key\ntls_version tlsv1.2"
    with running_broker(tmp_path, extra) as broker:
        device = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        device.tls_set(str(tmp_path / "broker.pem"))
        device.connect(broker.host, broker.port)
        device.loop_start()

        def publish(*seqs: int) -> None:
            for seq in seqs:
                payload = json.dumps({**example("result.pass"), "seq": seq})
                device.publish(f"{ROOT}/result", payload, qos=1).wait_for_publish(10)

        receiving = Receiving(broker, tmp_path)
        device.publish(f"{ROOT}/result", b"nonsense", qos=1)
        publish(1, 2, 2, 5, 1)
        receiving.wait(lambda: receiving.seqs == [1, 2, 5])
        receiving.stop()
        assert "malformed result" in receiving.stderr_text
        assert "missing before 5: (3, 4)" in receiving.stderr_text
        assert "3 results; missing: 3 to 4" in receiving.stderr_text
        publish(5, 6)  # kept by the broker while the program is not running
        receiving = Receiving(broker, tmp_path)
        publish(3, 4)
        receiving.wait(lambda: receiving.seqs == [1, 2, 5, 6, 3, 4])
        receiving.stop()
        assert "6 results; missing: nothing" in receiving.stderr_text
        device.disconnect()
        device.loop_stop()
