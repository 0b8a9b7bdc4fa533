"""Every step between this device and a broker that takes its messages, tried one after the other."""

from __future__ import annotations

import re
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
from edge.mqtt.tls import context_from_settings, text_from_os_error
from edge.system.clock import EARLIEST_CREDIBLE_S, ClockState, clock_state

PUBLISHED = tuple(re.sub(r"\{\w+\}", "check", topic.suffix) for topic in TOPICS if topic.direction == "out")
SUBSCRIBED = tuple(re.sub(r"\{\w+\}", "+", topic.suffix) for topic in TOPICS if topic.direction == "in")
"""The table of topics below the device's root, for this check."""
CLIENT_ID_SUFFIX = "-check"
"""The check has a client id of its own: with the device's it would throw out the daemon that runs."""

_ANSWER_S = 5.0
_SOON = timedelta(days=30)
_REFUSED = 0x80

_Answer = TypeVar("_Answer", Connected, Acknowledged, Subscribed)

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What one step showed; `remedy` is empty where nothing is to be done."""

    step: str
    outcome: Outcome
    detail: str
    remedy: str = ""


class _Failed(Exception):  # noqa: N818  (it carries a finding, behind which nothing can be tried)
    def __init__(self, step: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.finding = Finding(step, "failed", detail, remedy)


def check(settings: MqttSettings, device: str, root: str) -> Iterator[Finding]:
    """Try everything, from the clock to the rights; ends at the first step without which the next make no sense.

    Messages of the check are empty and not retained, so that no receiver can take one for a result.
    """
    try:
        yield _clock(clock_state(), datetime.now(timezone.utc))
        yield _name(settings)
        yield _tcp(settings)
        yield from _tls(settings)
        yield from _mqtt(settings, (settings.client_id or device) + CLIENT_ID_SUFFIX, root)
    except _Failed as failed:
        yield failed.finding


def _clock(state: ClockState, now: datetime) -> Finding:
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now.timestamp() < EARLIEST_CREDIBLE_S:
        remedy = "Set the clock (timedatectl set-ntp true): certificates are not valid yet at this time"
        return Finding("clock", "failed", f"{shown} cannot be", remedy)
    if state.max_error_ms is None:
        remedy = "Name a time server in /etc/systemd/timesyncd.conf; results are ordered by number, so none is lost"
        return Finding("clock", "warning", f"{shown}, kept by no time service", remedy)
    return Finding("clock", "ok", f"{shown}, off by {state.max_error_ms:.0f} ms at most")


def _name(settings: MqttSettings) -> Finding:
    started_s = time.monotonic()
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "Check mqtt.host and the DNS servers (resolvectl status), or give the broker's address"
        raise _Failed("name", f"{settings.host}: {text}", remedy) from error
    addresses = ", ".join(sorted({str(address[0]) for *_, address in found}))
    return Finding("name", "ok", f"{settings.host} is {addresses} ({1e3 * (time.monotonic() - started_s):.0f} ms)")


def _tcp(settings: MqttSettings) -> Finding:
    started_s = time.monotonic()
    where = f"{settings.host}:{settings.port}"
    try:
        socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError as error:
        remedy = "Check mqtt.port (1883, or 8883 with TLS), and that the broker runs and listens on this address"
        raise _Failed("tcp", f"{where}: nobody listens there", remedy) from error
    except OSError as error:
        remedy = "Check cable, address, gateway (ip route) and the firewalls between"
        raise _Failed("tcp", f"{where}: {text_from_os_error(error)}", remedy) from error
    return Finding("tcp", "ok", f"{where} answers in {1e3 * (time.monotonic() - started_s):.0f} ms")


def _tls(settings: MqttSettings) -> Iterator[Finding]:
    try:
        context = context_from_settings(settings)
    except OSError as error:
        remedy = "Check tls_ca_file, client_cert_file and client_key_file: PEM files that belong together"
        raise _Failed("tls", f"the files cannot be used: {text_from_os_error(error)}", remedy) from error
    if context is None:
        remedy = "Ask for the plant's certificate authority and name it in tls_ca_file, usually with port 8883"
        yield Finding("tls", "warning", "off: anybody on the network can read and change what is sent", remedy)
        return
    try:
        with (
            socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S) as tcp,
            context.wrap_socket(tcp, server_hostname=settings.host) as tls,
        ):
            version, certificate = tls.version(), tls.getpeercert(binary_form=True)
    except OSError as error:
        remedy = "Correct what the detail names; `openssl s_client -connect HOST:PORT -showcerts` shows the certificate"
        raise _Failed("tls", text_from_os_error(error), remedy) from error
    yield Finding("tls", "ok", f"{version}, the broker is who it says")
    if certificate is not None:
        yield _dates("broker's certificate", x509.load_der_x509_certificate(certificate))
    if settings.client_cert_file is not None:
        own = x509.load_pem_x509_certificate(settings.client_cert_file.read_bytes())
        yield _dates("own certificate", own)


def _dates(step: str, certificate: x509.Certificate) -> Finding:
    now, end = datetime.now(timezone.utc), certificate.not_valid_after_utc
    detail = f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {end:%Y-%m-%d}"
    if not certificate.not_valid_before_utc <= now <= end:
        return Finding(step, "failed", detail, "Exchange the file; the running device takes it up by itself")
    if end - now < _SOON:
        remedy = "Have it renewed; the running device takes a new file up by itself"
        return Finding(step, "warning", f"{detail}: {(end - now).days} days left", remedy)
    return Finding(step, "ok", detail)


def _mqtt(settings: MqttSettings, client_id: str, root: str) -> Iterator[Finding]:
    wake = threading.Event()
    try:
        connection = Connection(settings, client_id, None, wake, lambda _: True)
        try:
            connection.open()
            limits = _await(connection, wake, Connected)
            yield Finding("login", "ok", f"MQTT {settings.protocol} as {client_id}")
            yield _limits(limits)
            for suffix in PUBLISHED:
                yield _right_to_publish(settings, connection, wake, f"{root}/{suffix}")
            for suffix in SUBSCRIBED:
                yield _right_to_subscribe(connection, wake, f"{root}/{suffix}")
        finally:
            connection.close()
    except LinkError as error:
        remedy = (
            "Check username and password_file, and that the broker lets this device in under the client id "
            f"{client_id}; the broker's log says more"
        )
        raise _Failed("mqtt", str(error), remedy) from error


def _limits(limits: Connected) -> Finding:
    at_once = f"{limits.receive_maximum} messages at once"
    size = limits.maximum_packet_bytes
    detail = f"packets of {size:,} bytes, {at_once}"
    if size < MAX_PAYLOAD_BYTES + 1024:
        remedy = (
            f"Allow {MAX_FRAME_BYTES:,} bytes at the broker (mosquitto: max_packet_size); larger results are set aside"
        )
        return Finding("limits", "failed", detail, remedy)
    if size < MAX_FRAME_BYTES:
        remedy = f"Allow {MAX_FRAME_BYTES:,} bytes at the broker for images of full quality"
        return Finding("limits", "warning", detail, remedy)
    return Finding("limits", "ok", detail)


def _right_to_publish(settings: MqttSettings, connection: Connection, wake: threading.Event, topic: str) -> Finding:
    step = "may publish"
    connection.publish(topic, b"", retain=False, content_type="text/plain")
    puback = _await(connection, wake, Acknowledged)
    if puback.reason_code >= _REFUSED:
        remedy = "Give the device write access to this topic at the broker; what it refuses is set aside on the device"
        return Finding(step, "failed", f"{topic}: {puback.text}", remedy)
    if settings.protocol != "5":
        remedy = "Use protocol 5 where the broker can: over 3.1.1 a refusal looks like an acceptance"
        return Finding(step, "warning", f"{topic}: acceptance unverifiable", remedy)
    return Finding(step, "ok", topic)


def _right_to_subscribe(connection: Connection, wake: threading.Event, topic_filter: str) -> Finding:
    connection.subscribe(topic_filter)
    answer = _await(connection, wake, Subscribed)
    if answer.refused:
        remedy = "Give the device read access to this topic at the broker; without it commands do not arrive"
        return Finding("may subscribe", "failed", f"{topic_filter}: {answer.refused}", remedy)
    return Finding("may subscribe", "ok", topic_filter)


def _await(connection: Connection, wake: threading.Event, kind: type[_Answer]) -> _Answer:
    deadline_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline_s:
        for occurrence in connection.occurrences():
            if isinstance(occurrence, kind):
                return occurrence
            if isinstance(occurrence, Ended):
                raise LinkError(occurrence.text)
        wake.wait(0.1)
        wake.clear()
    raise LinkError(f"the broker does not answer within {_ANSWER_S:g} s")
