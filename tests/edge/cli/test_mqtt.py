"""`procunit mqtt check` against a real mosquitto, with every kind of fault."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge.config.file import settings_from_file
from edge.fault_board import put_event
from edge.faults import FaultId
from edge.mqtt import check as mqtt_check
from edge.mqtt import check_rights
from edge.mqtt.check import Finding, check, published_topics, subscribed_filters
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from edge.system.clock import ClockState, clock_state
from tests.doubles.scripted_broker import Published, ScriptedBroker
from tests.support.broker import HOST, Subscriber, free_port, running_broker
from tests.support.certificates import DAY, Authority
from tests.support.device import PROCUNIT, new_device
from tests.support.publishing import ROOT, publishing, states, wait_until

PUBLISHED = published_topics(ROOT)
ALL_STEPS = "clock name tcp tls login limits client " + "may publish " * len(PUBLISHED) + "may subscribe"


def findings(port: int, host: str = HOST, *, running: bool = False, **settings: object) -> list[Finding]:
    """The check's findings without the clock, which depends on the machine."""
    model = MqttSettings.model_validate({"host": host, "port": port, **settings})
    return [finding for finding in check(model, "edge-1", ROOT, running=running) if finding.step != "clock"]


def last_failure(found: list[Finding]) -> tuple[str, str]:
    """Step and detail of the failure that ended the check; every failure has a remedy."""
    assert found[-1].outcome == "failed"
    assert found[-1].remedy
    return found[-1].step, found[-1].detail


@pytest.fixture(autouse=True)
def _watches_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_rights, "WATCH_S", 0.1)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_broker_that_accepts_everything_passes_and_no_receiver_gets_a_message(
    tmp_path: Path, protocol: str, running: bool
) -> None:
    with running_broker(tmp_path) as broker, Subscriber(broker) as subscriber:
        with Outbox(tmp_path / "o.sqlite") as outbox, publishing(outbox, broker.port):
            before = subscriber.wait_for(lambda m: states(m) == ["running"])
            if running:
                assert all(f.outcome != "failed" for f in findings(broker.port, running=True, protocol=protocol))
                assert subscriber.messages == before
        before = subscriber.wait_for(lambda m: states(m) == ["running", "stopped"])
        found = findings(broker.port, protocol=protocol)
        expected = ALL_STEPS.replace("client ", "")
        assert [f.step for f in found if f.step != "client id"] == re.findall(r"may \w+|\w+", expected)[1:]
        bad = {f.step: f.outcome for f in found if f.outcome != "ok"}
        assert bad == {"tls": "warning"} | ({} if protocol == "5" else {"may publish": "warning"})
        time.sleep(0.3)  # a message that nobody should get would be here by now
        assert subscriber.messages == before
        with Subscriber(broker, f"{ROOT}/#") as late:
            (kept,) = late.wait_for(lambda m: len(m) == 1)
            assert states([kept]) == ["stopped"]


def test_the_tested_topics_are_those_of_the_table() -> None:
    suffixes = {topic.removeprefix(f"{ROOT}/") for topic in PUBLISHED}
    assert {"result", "result/last", "frame/check/image", "cmd/check/reply"} <= suffixes
    assert subscribed_filters(ROOT) == (f"{ROOT}/cmd/+",)


def test_a_host_name_that_does_not_exist() -> None:
    step, detail = last_failure(findings(1883, "broker.invalid"))
    assert step == "name"
    assert "broker.invalid" in detail


def test_a_closed_port() -> None:
    step, detail = last_failure(findings(free_port()))
    assert step == "tcp"
    assert "connection refused, no program listens there" in detail


@pytest.mark.parametrize(
    ("validity", "text"),
    [
        ({"ends": -timedelta(hours=1)}, "is expired"),
        ({"starts": DAY}, "is not valid yet"),
        ({"host": "10.9.8.7"}, "is for another host name"),
    ],
)
def test_a_faulty_certificate_of_the_broker_is_explained(tmp_path: Path, validity: dict[str, Any], text: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker", **validity)
    with running_broker(tmp_path, f"certfile {certificate}\nkeyfile {key}") as broker:
        step, detail = last_failure(findings(broker.port, tls_ca_file=authority.ca_file))
    assert step == "tls"
    assert text in detail


def test_an_unknown_authority_and_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("broker")
    with running_broker(tmp_path, f"certfile {certificate}\nkeyfile {key}") as broker:
        step, detail = last_failure(findings(broker.port, tls_ca_file=stranger.ca_file))
        assert (step, "not signed by the authority" in detail) == ("tls", True)
        soon = {f.step: f for f in findings(broker.port, tls_ca_file=authority.ca_file)}["broker's certificate"]
    assert soon.outcome == "warning"
    assert "4 days left" in soon.detail


def test_a_client_certificate_that_is_missing_is_expired_or_has_another_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker")
    own, own_key = authority.issue("edge-1", ends=-timedelta(hours=1))
    mutual = f"certfile {certificate}\nkeyfile {key}\ncafile {authority.ca_file}\nrequire_certificate true"
    with running_broker(tmp_path, mutual) as broker:
        missing = findings(broker.port, tls_ca_file=authority.ca_file)
        assert last_failure(missing)[0] == "mqtt"
        assert "client_cert_file" in missing[-1].detail or "closed the connection" in missing[-1].detail
        expired = findings(broker.port, tls_ca_file=authority.ca_file, client_cert_file=own, client_key_file=own_key)
        assert {f.step: f.outcome for f in expired}["own certificate"] == "failed"
        mixed = findings(broker.port, tls_ca_file=authority.ca_file, client_cert_file=own, client_key_file=key)
        step, detail = last_failure(mixed)
        assert step == "tls"
        assert "client_key_file is not the key of client_cert_file" in detail


def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    passwords, password_file = tmp_path / "passwords", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "edge", "right"], check=True)
    password_file.write_text("hunter2\n")
    password_file.chmod(0o600)
    with running_broker(tmp_path, f"password_file {passwords}\nallow_anonymous false") as broker:
        found = findings(broker.port, username="edge", password_file=password_file)
    step, detail = last_failure(found)
    assert step == "mqtt"
    assert "refused the connection: Not authorized" in detail
    assert "hunter2" not in repr(found)


def test_each_topic_that_access_rules_forbid_is_named_and_the_others_are_fine(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(f"topic readwrite {ROOT}/result\ntopic read {ROOT}/#\n")
    with running_broker(tmp_path, f"acl_file {rules}") as broker:
        found = [f for f in findings(broker.port) if f.step == "may publish"]
    assert [f.outcome for f in found] == ["ok"] + ["failed"] * (len(PUBLISHED) - 1)
    assert found[1].detail == f"{ROOT}/result/last: Not authorized"


def test_a_refused_subscription() -> None:
    with ScriptedBroker(lambda _: 0, suback_reason=0x87) as broker:
        found = findings(broker.port)
    assert last_failure(found) == ("may subscribe", f"{ROOT}/cmd/+: Not authorized")


def test_over_mqtt_3_1_1_rights_are_reported_as_unverifiable(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        found = [f for f in findings(broker.port, protocol="3.1.1") if f.step == "may publish"]
    assert {f.outcome for f in found} == {"warning"}
    assert all("acceptance unverifiable" in f.detail for f in found)


@pytest.mark.parametrize(("limit", "outcome"), [(10_000, "failed"), (200_000, "warning"), (2_000_000, "ok")])
def test_the_size_limit_of_the_broker(tmp_path: Path, limit: int, outcome: str) -> None:
    with running_broker(tmp_path, f"max_packet_size {limit}") as broker:
        (found,) = [f for f in findings(broker.port) if f.step == "limits"]
    assert found.outcome == outcome
    assert f"{limit:,} bytes" in found.detail


def test_the_clock() -> None:
    clock: Callable[[ClockState, datetime], Finding] = mqtt_check._check_clock
    now = datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert clock(ClockState(3.0), now).outcome == "ok"
    assert clock(ClockState(None), now).outcome == "warning"
    assert clock(ClockState(3.0), datetime(1970, 1, 1, tzinfo=timezone.utc)).outcome == "failed"
    error_ms = clock_state().max_error_ms
    assert error_ms is None or 0 < error_ms < 60_000


def test_the_command_prints_a_table_or_json_and_exits_with_1_after_a_failure(tmp_path: Path) -> None:
    device = new_device(tmp_path / "device", free_port(), 1)
    command = [*PROCUNIT, "mqtt", "check", "--config", str(device.config)]
    with running_broker(tmp_path) as broker:
        device.port = broker.port
        device.write_settings()
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert shown.returncode == 0, shown.stderr
        assert "demo/edge-1/v1/result" in shown.stdout
    broken = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert broken.returncode == 1
    assert json.loads(broken.stdout)[-1]["step"] == "tcp"


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A TCP server that answers the first bytes of each connection and closes it; yields its port."""
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    connection.sendall(answer(connection.recv(4096)))
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def web_server(request: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" if request.startswith(b"GET") else b"HTTP/1.1 400 Bad Request\r\n\r\n"


def websockets(request: bytes) -> bytes:
    return b"HTTP/1.1 101 Switching Protocols\r\n\r\n" if request.startswith(b"GET") else b""


def broker_of_311(request: bytes) -> bytes:
    """A broker that knows MQTT 3.1.1 only: the level is the byte after the protocol's name."""
    return b"\x20\x02\x00\x00" if request[8:9] == b"\x04" else b"\x20\x02\x00\x01"


def silent_broker_of_311(request: bytes) -> bytes:
    return b"\x20\x02\x00\x00" if request[8:9] == b"\x04" else b""


@pytest.mark.parametrize(
    ("answer", "detail", "remedy"),
    [
        (web_server, "is a web server (it answers: HTTP/1.1 200 OK)", "to those of the broker"),
        (websockets, "is MQTT over WebSockets", "this one is for WebSockets"),
        (lambda _: b"SSH-2.0-OpenSSH_9.2", "is another program (it answers: SSH-2.0-OpenSSH_9.2)", "to those of the"),
        (lambda _: b"", "is a program that answers nothing", "see the broker's log"),
        (broker_of_311, "Unsupported protocol version", 'set protocol: "3.1.1"'),
        (silent_broker_of_311, "", 'set protocol: "3.1.1"'),
    ],
)
def test_what_listens_instead_of_the_broker_is_named(
    answer: Callable[[bytes], bytes], detail: str, remedy: str
) -> None:
    with answering(answer) as port:
        found = findings(port)
    assert last_failure(found)[0] == "mqtt"
    assert detail in found[-1].detail
    assert remedy in found[-1].remedy


def test_a_port_with_tls_and_one_without_are_told_apart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker")
    with running_broker(tmp_path, f"certfile {certificate}\nkeyfile {key}") as broker:
        found = findings(broker.port)
    assert found[-1].detail.endswith("is TLS")
    assert "Set tls_ca_file" in found[-1].remedy
    with running_broker(tmp_path) as broker:
        found = findings(broker.port, tls_ca_file=authority.ca_file)
    assert found[-1].detail.endswith("is MQTT without TLS")
    assert "remove tls_ca_file" in found[-1].remedy


def test_a_key_with_a_passphrase_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("edge-1")
    protected = tmp_path / "protected.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", str(protected)]
    subprocess.run(command, check=True, capture_output=True)
    protected.chmod(0o600)
    with running_broker(tmp_path) as broker:
        found = findings(
            broker.port, tls_ca_file=authority.ca_file, client_cert_file=certificate, client_key_file=protected
        )
    assert "client_key_file is protected by a passphrase" in found[-1].detail


def test_a_broker_without_retained_messages_is_named(tmp_path: Path) -> None:
    with running_broker(tmp_path, "retain_available false") as broker:
        found = findings(broker.port)
    assert found[-1].outcome == "failed"
    assert "retain_available true" in found[-1].remedy


def test_a_topic_on_which_the_broker_hangs_up_is_named_and_the_others_are_tested() -> None:
    def answer(published: Published) -> int | None:
        if published.topic.endswith("/metrics"):
            broker.drop()
            return None
        return 0

    with ScriptedBroker(answer) as broker:
        found = findings(broker.port)
    (failed,) = [f for f in found if f.outcome == "failed"]
    assert failed.detail.startswith(f"{ROOT}/metrics: the broker closed the connection")
    assert "write access" in failed.remedy
    assert sum(f.step == "may publish" for f in found) == len(PUBLISHED)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_another_client_with_the_devices_client_id_is_found(
    tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_rights, "WATCH_S", 3.0)
    with (
        running_broker(tmp_path) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, protocol=protocol) as publisher,
    ):
        wait_until(lambda: publisher.link.connected)
        found = {f.step: f for f in findings(broker.port, protocol=protocol)}
    assert found["client id"].outcome == "failed"
    assert "edge-1 is in use" in found["client id"].detail
    assert "mqtt.client_id" in found["client id"].remedy


def test_the_command_reports_what_the_running_device_says_about_its_client_id(tmp_path: Path) -> None:
    device = new_device(tmp_path / "device", free_port(), 1)
    command = [*PROCUNIT, "mqtt", "check", "--json", "--config", str(device.config)]
    with running_broker(tmp_path) as broker:
        device.port = broker.port
        device.write_settings()
        state_dir = settings_from_file(device.config).state_dir
        with Outbox(state_dir / OUTBOX_FILE) as outbox:
            fine = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert fine.returncode == 0, fine.stdout + fine.stderr
            put_event(outbox, "edge-1", FaultId.CLIENT_ID_IN_USE, "another client")
            assert outbox.flush(5)
            shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 1
    assert json.loads(shown.stdout)[-1]["step"] == "client id"
