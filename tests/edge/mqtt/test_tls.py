"""TLS to a real mosquitto: faulty certificates and their error texts, and certificates exchanged while it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge.mqtt import publisher as publisher_module
from edge.mqtt.check import check
from edge.mqtt.client import LinkError, credentials
from edge.mqtt.settings import MqttSettings
from edge.outbox.outbox import Outbox
from tests.support.broker import HOST, Subscriber, free_port, running_broker
from tests.support.certificates import DAY, Authority
from tests.support.publishing import publishing, put_results, sequence, states, wait_until


def tls_lines(authority: Authority, extra: str = "", **validity: Any) -> str:
    """Lines of mosquitto's configuration with a newly issued certificate."""
    certificate, key = authority.issue("broker", **validity)
    return f"certfile {certificate}\nkeyfile {key}\n{extra}"


@pytest.mark.parametrize(
    ("validity", "text"),
    [
        ({"ends": -timedelta(hours=1), "starts": -DAY}, "is expired; this device's clock says"),
        ({"starts": DAY}, "is not valid yet; this device's clock says"),
        ({"host": "10.9.8.7"}, "is for another host name or address than mqtt.host"),
    ],
)
def test_a_broker_with_a_faulty_certificate_gets_nothing_and_the_fault_is_explained(
    tmp_path: Path, validity: dict[str, Any], text: str
) -> None:
    authority = Authority(tmp_path)
    with (
        running_broker(tmp_path, tls_lines(authority, **validity)) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, tls_ca_file=authority.ca_file) as publisher,
    ):
        put_results(outbox, 1)
        wait_until(lambda: text in publisher.link.detail)
        assert outbox.backlog() == 1


def test_a_broker_of_another_authority_gets_nothing_until_the_right_one_is_set(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    with running_broker(tmp_path, tls_lines(authority)) as broker, Outbox(tmp_path / "o.sqlite") as outbox:
        put_results(outbox, 3)
        with publishing(outbox, broker.port, tls_ca_file=stranger.ca_file) as publisher:
            wait_until(lambda: "not signed by the authority in tls_ca_file" in publisher.link.detail)
        assert outbox.backlog() == 3
        with publishing(outbox, broker.port, tls_ca_file=authority.ca_file):
            wait_until(lambda: outbox.backlog() == 0)


def test_after_the_broker_renews_its_expired_certificate_results_arrive(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        running_broker(tmp_path, tls_lines(authority, ends=-timedelta(hours=1))) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, tls_ca_file=authority.ca_file) as publisher,
    ):
        put_results(outbox, 1)
        wait_until(lambda: "expired" in publisher.link.detail)
        broker.stop()
        authority.issue("broker")
        broker.start()
        wait_until(lambda: outbox.backlog() == 0)


def test_a_broker_without_tls_is_not_connected_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        running_broker(tmp_path) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, broker.port, tls_ca_file=authority.ca_file) as publisher,
    ):
        wait_until(lambda: publisher.link.detail not in ("", "not connected yet"))
        assert not publisher.link.connected


def test_a_missing_or_unknown_client_certificate_is_explained(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    certificate, key = stranger.issue("edge")
    mutual = f"cafile {authority.ca_file}\nrequire_certificate true"
    with running_broker(tmp_path, tls_lines(authority, extra=mutual)) as broker, Outbox(tmp_path / "o") as outbox:
        with publishing(outbox, broker.port, tls_ca_file=authority.ca_file) as publisher:
            wait_until(lambda: "set client_cert_file and client_key_file" in publisher.link.detail)
        with publishing(
            outbox, broker.port, tls_ca_file=authority.ca_file, client_cert_file=certificate, client_key_file=key
        ) as publisher:
            texts = (
                "does not know the authority of this device's certificate",
                "ended the TLS handshake",
            )  # the alert is not always received
            wait_until(lambda: any(text in publisher.link.detail for text in texts))


def test_exchanged_certificates_are_used_without_a_restart_and_results_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a new pair changes nothing; the whole pair costs one reconnect, no result, and no status `offline`."""
    monkeypatch.setattr(publisher_module, "FILE_CHECK_INTERVAL_S", 0.2)
    authority = Authority(tmp_path)
    certificate, key = authority.issue("edge")
    new_certificate, new_key = authority.issue("edge-new")
    open_port = free_port()  # for the subscriber
    mutual = f"cafile {authority.ca_file}\nrequire_certificate true\nlistener {open_port} {HOST}"
    with (
        running_broker(tmp_path, tls_lines(authority, extra=mutual)) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(
            outbox, broker.port, tls_ca_file=authority.ca_file, client_cert_file=certificate, client_key_file=key
        ) as publisher,
    ):
        broker.port = open_port
        with Subscriber(broker) as subscriber:
            put_results(outbox, 20)
            subscriber.wait_for(lambda m: len(sequence(m)) == 20)
            shutil.copyfile(new_certificate, certificate)
            assert not _within(1.0, lambda: publisher.link.connections > 1)
            shutil.copyfile(new_key, key)
            put_results(outbox, 20)
            wait_until(lambda: publisher.link.connections == 2)
            put_results(outbox, 20)
            messages = subscriber.wait_for(lambda m: len(sequence(m)) == 60)
            assert [json.loads(m.payload)["seq"] for m in messages if m.topic.endswith("/result")] == list(range(1, 61))
            assert "offline" not in states(messages)


def test_systemd_credentials_are_used_if_the_settings_name_none(tmp_path: Path) -> None:
    (tmp_path / "mqtt-username").write_text("edge-1\n")
    (tmp_path / "mqtt-password").write_text("from systemd\n")
    own = tmp_path / "own"
    own.write_text("from a file\n")
    own.chmod(0o600)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credentials(MqttSettings(host=HOST), environment) == ("edge-1", "from systemd")
    assert credentials(MqttSettings(host=HOST, username="u"), environment) == ("u", "from systemd")
    assert credentials(MqttSettings(host=HOST, username="u", password_file=own), environment) == ("u", "from a file")
    assert credentials(MqttSettings(host=HOST), {}) == (None, None)


BLANK = "the first line of the password file {} is blank: write the password into it"


@pytest.mark.parametrize("content", ["pässword \n", "pässword \r\n", "\ufeffpässword \n", "pässword "])
def test_a_password_is_the_first_line_without_a_byte_order_mark(tmp_path: Path, content: str) -> None:
    (tmp_path / "mqtt-username").write_text(content.replace("pässword ", "edge-1"), encoding="utf-8")
    (tmp_path / "mqtt-password").write_text(content, encoding="utf-8")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credentials(MqttSettings(host=HOST), environment) == ("edge-1", "pässword ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", BLANK),
        (b"\nsecret\n", BLANK),
        (
            b"\xef\xbb\xbf\r\nsecret\n",
            BLANK,
        ),
        ("secret\n".encode("utf-16"), "the password file {} is not UTF-8 text: save it as UTF-8"),
        (None, "the password file {} cannot be read: No such file or directory"),
    ],
)
def test_a_password_file_that_holds_no_password_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """The broker is not asked with an empty password, which it would refuse without saying why."""
    file = tmp_path / "password"
    file.write_bytes(content or b"")
    file.chmod(0o600)
    with (
        running_broker(tmp_path) as broker,
        Outbox(tmp_path / "o.sqlite") as outbox,
    ):
        settings = MqttSettings(host=HOST, port=broker.port, username="edge-1", password_file=file)
        if content is None:
            file.unlink()
        expected = problem.format(file)
        with pytest.raises(LinkError) as caught:
            credentials(settings)
        assert str(caught.value) == expected
        failed = [finding for finding in check(settings, "edge-1", "a/v1") if finding.outcome == "failed"]
        assert [(finding.step, finding.detail) for finding in failed] == [("mqtt", expected)]
        if content is not None:
            with publishing(outbox, broker.port, username="edge-1", password_file=file) as publisher:
                wait_until(lambda: publisher.link.detail == expected)
                file.write_text("secret\n")
                wait_until(lambda: publisher.link.connected)


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    try:
        wait_until(condition, seconds)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("name", ["tls_ca_file", "password_file"])
def test_a_certificate_or_password_file_of_gigabytes_is_not_read(tmp_path: Path, name: str) -> None:
    """Both are read again at every connection; the file is a hole, so it takes no space on the disk."""
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(8 << 30)
    huge.chmod(0o600)
    settings: dict[str, Any] = {"username": "edge-1", name: huge}
    with (
        Outbox(tmp_path / "o.sqlite") as outbox,
        publishing(outbox, free_port(), **settings) as publisher,
    ):
        wait_until(lambda: "larger than" in publisher.link.detail)
        assert str(huge) in publisher.link.detail
