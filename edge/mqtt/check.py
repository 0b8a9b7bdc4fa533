"""Tests every step from this device to a broker that accepts its messages, one after the other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeVar

from cryptography import x509

from edge.contract.payloads import MAX_PAYLOAD_BYTES
from edge.contract.topics import TOPICS
from edge.mqtt.client import CONNECT_TIMEOUT_S, LinkError
from edge.mqtt.connection import Acknowledged, Connected, Connection, Ended, Subscribed
from edge.mqtt.frame_sender import MAX_FRAME_BYTES
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import MAX_PEM_BYTES, context_from_settings, text_from_os_error
from edge.system.clock import EARLIEST_CREDIBLE_S, ClockState, clock_state
from edge.system.files import bytes_from_file

CLIENT_ID_SUFFIX = "-check"
"""The check's client id differs from the device's: with the same id the broker would disconnect the running daemon."""

_ANSWER_TIMEOUT_S = 5.0
_EXPIRES_SOON = timedelta(days=30)
_REFUSED = 0x80

_Answer = TypeVar("_Answer", Connected, Acknowledged, Subscribed)

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one step; `remedy` is empty if there is nothing to do."""

    step: str
    outcome: Outcome
    detail: str
    remedy: str = ""


class _Failed(Exception):  # noqa: N818  (it carries the finding that ends the check)
    def __init__(self, step: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.finding = Finding(step, "failed", detail, remedy)


def check(settings: MqttSettings, device: str, root: str) -> Iterator[Finding]:
    """Test clock, name, TCP, TLS, login and rights; stops at a failure that prevents all further steps.

    The messages of the check are empty and not retained, so that no receiver mistakes one for a result.
    """
    try:
        yield _check_clock(clock_state(), datetime.now(timezone.utc))
        yield _check_name(settings)
        yield _check_tcp(settings)
        yield from _check_tls(settings)
        yield from _check_mqtt(settings, (settings.client_id or device) + CLIENT_ID_SUFFIX, root)
    except _Failed as failed:
        yield failed.finding


def published_topics(root: str) -> tuple[str, ...]:
    """Every topic on which the device publishes, with `check` as result id and as command name."""
    return tuple(topic.at(root, resultId="check", name="check") for topic in TOPICS if topic.direction == "out")


def subscribed_filters(root: str) -> tuple[str, ...]:
    """Every topic filter to which the device subscribes."""
    return tuple(topic.at(root, name="+") for topic in TOPICS if topic.direction == "in")


def _check_clock(state: ClockState, now: datetime) -> Finding:
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now.timestamp() < EARLIEST_CREDIBLE_S:
        remedy = "Set the clock (timedatectl set-ntp true): certificates are not valid yet at this time"
        return Finding("clock", "failed", f"{shown}: the clock was never set", remedy)
    if state.max_error_ms is None:
        remedy = (
            "Set a time server in /etc/systemd/timesyncd.conf; results are ordered by number, so none is lost meanwhile"
        )
        return Finding("clock", "warning", f"{shown}, not synchronised by a time service", remedy)
    return Finding("clock", "ok", f"{shown}, off by at most {state.max_error_ms:.0f} ms")


def _check_name(settings: MqttSettings) -> Finding:
    started_s = time.monotonic()
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "Check mqtt.host and the DNS servers (resolvectl status), or set mqtt.host to the broker's IP address"
        raise _Failed("name", f"{settings.host}: {text}", remedy) from error
    addresses = ", ".join(sorted({str(address[0]) for *_, address in found}))
    return Finding("name", "ok", f"{settings.host} is {addresses} ({1e3 * (time.monotonic() - started_s):.0f} ms)")


def _check_tcp(settings: MqttSettings) -> Finding:
    started_s = time.monotonic()
    where = f"{settings.host}:{settings.port}"
    try:
        socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError as error:
        remedy = "Check mqtt.port (1883, or 8883 with TLS), and that the broker runs and listens on this address"
        raise _Failed("tcp", f"{where}: connection refused, no program listens there", remedy) from error
    except OSError as error:
        remedy = "Check the cable, the address, the gateway (ip route) and the firewalls in between"
        raise _Failed("tcp", f"{where}: {text_from_os_error(error)}", remedy) from error
    return Finding("tcp", "ok", f"{where} answered in {1e3 * (time.monotonic() - started_s):.0f} ms")


def _check_tls(settings: MqttSettings) -> Iterator[Finding]:
    try:
        context = context_from_settings(settings)
    except OSError as error:
        remedy = "Check tls_ca_file, client_cert_file and client_key_file: they must be PEM files that belong together"
        raise _Failed("tls", f"the files cannot be used: {text_from_os_error(error)}", remedy) from error
    if context is None:
        remedy = "Ask for the certificate of the plant's authority and set it as tls_ca_file, usually with port 8883"
        yield Finding("tls", "warning", "off: anybody on the network can read and change the messages", remedy)
        return
    try:
        with (
            socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S) as tcp,
            context.wrap_socket(tcp, server_hostname=settings.host) as tls,
        ):
            version, certificate = tls.version(), tls.getpeercert(binary_form=True)
    except OSError as error:
        remedy = (
            "Correct the problem in the detail; `openssl s_client -connect HOST:PORT -showcerts` shows the certificate"
        )
        raise _Failed("tls", text_from_os_error(error), remedy) from error
    yield Finding("tls", "ok", f"{version}, the broker's certificate is valid for {settings.host}")
    if certificate is not None:
        yield _check_dates("broker's certificate", x509.load_der_x509_certificate(certificate))
    if settings.client_cert_file is not None:
        own = x509.load_pem_x509_certificate(bytes_from_file(settings.client_cert_file, MAX_PEM_BYTES))
        yield _check_dates("own certificate", own)


def _check_dates(step: str, certificate: x509.Certificate) -> Finding:
    now, end = datetime.now(timezone.utc), certificate.not_valid_after_utc
    detail = f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {end:%Y-%m-%d}"
    if not certificate.not_valid_before_utc <= now <= end:
        return Finding(step, "failed", detail, "Replace the file; a running device uses the new one without a restart")
    if end - now < _EXPIRES_SOON:
        remedy = "Have it renewed; a running device uses the new file without a restart"
        return Finding(step, "warning", f"{detail}: {(end - now).days} days left", remedy)
    return Finding(step, "ok", detail)


def _check_mqtt(settings: MqttSettings, client_id: str, root: str) -> Iterator[Finding]:
    wake = threading.Event()
    try:
        connection = Connection(settings, client_id, None, wake, lambda _: True)
        try:
            connection.open()
            limits = _await(connection, wake, Connected)
            yield Finding("login", "ok", f"MQTT {settings.protocol} as {client_id}")
            yield _check_limits(limits)
            for topic in published_topics(root):
                yield _check_right_to_publish(settings, connection, wake, topic)
            for topic_filter in subscribed_filters(root):
                yield _check_right_to_subscribe(connection, wake, topic_filter)
        finally:
            connection.close()
    except LinkError as error:
        remedy = (
            "Check username and password_file, and that the broker accepts this device with the client id "
            f"{client_id}; see the broker's log"
        )
        raise _Failed("mqtt", str(error), remedy) from error


def _check_limits(limits: Connected) -> Finding:
    size = limits.maximum_packet_bytes
    detail = f"packets of up to {size:,} bytes, {limits.receive_maximum} messages in flight"
    if size < MAX_PAYLOAD_BYTES + 1024:
        remedy = (
            f"Allow {MAX_FRAME_BYTES:,} bytes at the broker (mosquitto: max_packet_size); larger results are "
            "quarantined"
        )
        return Finding("limits", "failed", detail, remedy)
    if size < MAX_FRAME_BYTES:
        remedy = f"Allow {MAX_FRAME_BYTES:,} bytes at the broker for images of full quality"
        return Finding("limits", "warning", detail, remedy)
    return Finding("limits", "ok", detail)


def _check_right_to_publish(
    settings: MqttSettings, connection: Connection, wake: threading.Event, topic: str
) -> Finding:
    step = "may publish"
    connection.publish(topic, b"", retain=False, content_type="text/plain")
    puback = _await(connection, wake, Acknowledged)
    if puback.reason_code >= _REFUSED:
        remedy = "Give the device write access to this topic at the broker; the device quarantines refused messages"
        return Finding(step, "failed", f"{topic}: {puback.text}", remedy)
    if settings.protocol != "5":
        remedy = "Use protocol 5 if the broker supports it: over 3.1.1 a refusal looks like an acceptance"
        return Finding(step, "warning", f"{topic}: acceptance unverifiable", remedy)
    return Finding(step, "ok", topic)


def _check_right_to_subscribe(connection: Connection, wake: threading.Event, topic_filter: str) -> Finding:
    connection.subscribe(topic_filter)
    answer = _await(connection, wake, Subscribed)
    if answer.refused:
        remedy = "Give the device read access to this topic at the broker; without it no command arrives"
        return Finding("may subscribe", "failed", f"{topic_filter}: {answer.refused}", remedy)
    return Finding("may subscribe", "ok", topic_filter)


def _await(connection: Connection, wake: threading.Event, kind: type[_Answer]) -> _Answer:
    deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for occurrence in connection.occurrences():
            if isinstance(occurrence, kind):
                return occurrence
            if isinstance(occurrence, Ended):
                raise LinkError(occurrence.text)
        wake.wait(0.1)
        wake.clear()
    raise LinkError(f"the broker did not answer within {_ANSWER_TIMEOUT_S:g} s")
