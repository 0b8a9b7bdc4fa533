"""`procunit mqtt check` against a real mosquitto, with every kind of fault."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge.mqtt import check as mqtt_check
from edge.mqtt.check import Finding, check, published_topics, subscribed_filters
from edge.mqtt.settings import MqttSettings
from edge.system.clock import ClockState, clock_state
from tests.doubles.scripted_broker import ScriptedBroker
from tests.support.broker import HOST, Subscriber, free_port, running_broker
from tests.support.certificates import DAY, Authority
from tests.support.device import PROCUNIT, new_device
from tests.support.publishing import ROOT

PUBLISHED = published_topics(ROOT)
ALL_STEPS = "clock name tcp tls login limits " + "may publish " * len(PUBLISHED) + "may subscribe"


def findings(port: int, host: str = HOST, **settings: object) -> list[Finding]:
    """The check's findings without the clock, which depends on the machine."""
    model = MqttSettings.model_validate({"host": host, "port": port, **settings})
    return [finding for finding in check(model, "edge-1", ROOT) if finding.step != "clock"]


def last_failure(found: list[Finding]) -> tuple[str, str]:
    """Step and detail of the failure that ended the check; every failure has a remedy."""
    assert found[-1].outcome == "failed"
    assert found[-1].remedy
    return found[-1].step, found[-1].detail


def test_a_broker_that_accepts_everything_passes_and_receivers_get_empty_messages_only(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker, Subscriber(broker) as subscriber:
        found = findings(broker.port)
        assert [f.step for f in found] == re.findall(r"may \w+|\w+", ALL_STEPS)[1:]
        assert {f.step: f.outcome for f in found if f.outcome != "ok"} == {"tls": "warning"}
        messages = subscriber.wait_for(lambda m: len(m) == len(PUBLISHED))
        assert all(m.payload == b"" and not m.retained for m in messages)
        with Subscriber(broker, f"{ROOT}/#") as late:
            assert late.messages == []


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
