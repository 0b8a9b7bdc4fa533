"""Tests every step from this device to a broker that accepts its messages, one after the other."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

from cryptography import x509

from edge.contract.payloads import MAX_PAYLOAD_BYTES, Status, bytes_from_payload
from edge.contract.topics import STATUS
from edge.mqtt.check_login import RETAIN_REMEDY, login_failure, unexpected_listener
from edge.mqtt.check_rights import Session, check_client_id, check_rights, published_topics, subscribed_filters
from edge.mqtt.client import CONNECT_TIMEOUT_S, LinkError
from edge.mqtt.finding import Failed, Finding, Outcome
from edge.mqtt.frame_sender import MAX_FRAME_BYTES
from edge.mqtt.listener import Kind
from edge.mqtt.occurrences import Connected
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import MAX_PEM_BYTES, context_from_settings, text_from_os_error
from edge.mqtt.will import Will
from edge.system.clock import EARLIEST_CREDIBLE_S, ClockState, clock_state
from edge.system.files import bytes_from_file

__all__ = ["Finding", "Outcome", "check", "published_topics", "subscribed_filters"]

CLIENT_ID_SUFFIX = "-check"
"""While the device runs, the check's client id differs: with the same id the broker would disconnect the device."""

_EXPIRES_SOON = timedelta(days=30)


def check(
    settings: MqttSettings,
    device: str,
    root: str,
    *,
    running: bool = False,
    epoch: str = "unknown",
    taken_over_at: str | None = None,
) -> Iterator[Finding]:
    """Test clock, name, TCP, TLS, login, client id and rights; stops at a failure that prevents all further steps.

    While the device is `running` the check has a client id of its own, and leaves will and status alone; otherwise it
    connects as the device does, and `epoch` is the one in its status. `taken_over_at` is when the running device last
    reported another client with its client id. No receiver gets a message.
    """
    client_id = settings.client_id or device
    try:
        yield _check_clock(clock_state(), datetime.now(timezone.utc))
        yield _check_name(settings)
        yield _check_tcp(settings)
        yield from _check_tls(settings)
        if running:
            yield from _check_mqtt(settings, client_id + CLIENT_ID_SUFFIX, root, None)
            yield _reported_client_id(client_id, taken_over_at)
            return
        status = Status(device=device, epoch=epoch, state="offline", time=None, version=version("procunit-edge"))
        yield from _check_mqtt(settings, client_id, root, bytes_from_payload(status))
    except Failed as failed:
        yield failed.finding


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
        raise Failed("name", f"{settings.host}: {text}", remedy) from error
    addresses = ", ".join(sorted({str(address[0]) for *_, address in found}))
    return Finding("name", "ok", f"{settings.host} is {addresses} ({1e3 * (time.monotonic() - started_s):.0f} ms)")


def _check_tcp(settings: MqttSettings) -> Finding:
    started_s = time.monotonic()
    where = f"{settings.host}:{settings.port}"
    try:
        socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError as error:
        remedy = "Check mqtt.port (1883, or 8883 with TLS), and that the broker runs and listens on this address"
        raise Failed("tcp", f"{where}: connection refused, no program listens there", remedy) from error
    except OSError as error:
        remedy = "Check the cable, the address, the gateway (ip route) and the firewalls in between"
        raise Failed("tcp", f"{where}: {text_from_os_error(error)}", remedy) from error
    return Finding("tcp", "ok", f"{where} answered in {1e3 * (time.monotonic() - started_s):.0f} ms")


def _check_tls(settings: MqttSettings) -> Iterator[Finding]:
    try:
        context = context_from_settings(settings)
    except OSError as error:
        remedy = "Check tls_ca_file, client_cert_file and client_key_file: they must be PEM files that belong together"
        raise Failed("tls", f"the files cannot be used: {text_from_os_error(error)}", remedy) from error
    if context is None:
        remedy = "Ask for the certificate of the plant's authority and set it as tls_ca_file, usually with port 8883"
        yield Finding("tls", "warning", "off: anybody on the network can read and change the messages", remedy)
        return
    try:
        with (
            socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S) as tcp,
            context.wrap_socket(tcp, server_hostname=settings.host) as tls,
        ):
            tls_version, certificate = tls.version(), tls.getpeercert(binary_form=True)
    except OSError as error:
        if not isinstance(error, ssl.SSLCertVerificationError):
            failed = unexpected_listener(settings, "tls", Kind.TLS)
            if failed is not None:
                raise failed from error
        remedy = (
            "Correct the problem in the detail; `openssl s_client -connect HOST:PORT -showcerts` shows the certificate"
        )
        raise Failed("tls", text_from_os_error(error), remedy) from error
    yield Finding("tls", "ok", f"{tls_version}, the broker's certificate is valid for {settings.host}")
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


def _check_mqtt(settings: MqttSettings, client_id: str, root: str, status: bytes | None) -> Iterator[Finding]:
    """Login, limits, client id and rights; with the will and the device's own client id if there is a `status`."""
    session = Session(settings, client_id)
    try:
        limits = session.login(None if status is None else Will(STATUS.at(root), status))
        yield Finding("login", "ok", f"MQTT {settings.protocol} as {client_id}")
        yield _check_limits(limits)
        if not limits.retain_available:
            yield Finding("retain", "failed", "the broker keeps no retained messages", RETAIN_REMEDY)
        if status is not None:
            found = check_client_id(session)
            yield found
            if found.outcome == "failed":
                session = Session(settings, client_id + CLIENT_ID_SUFFIX)
        yield from check_rights(session, root, limits, status)
    except LinkError as error:
        raise login_failure(session, error, had_will=status is not None) from error
    finally:
        session.close()


def _reported_client_id(client_id: str, taken_over_at: str | None) -> Finding:
    if taken_over_at is None:
        return Finding("client id", "ok", f"{client_id}: the running device reported no other client with it")
    remedy = "Give every device a client id of its own (mqtt.client_id, by default the device's name)"
    detail = f"{client_id} is in use: at {taken_over_at} the running device reported another client with it"
    return Finding("client id", "failed", detail, remedy)


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
