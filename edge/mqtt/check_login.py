"""Why a broker does not accept a connection, and the one remedy for it."""

from __future__ import annotations

from edge.mqtt.check_rights import Session
from edge.mqtt.client import LinkError
from edge.mqtt.finding import Failed
from edge.mqtt.listener import Kind, listener_at, refuses_version
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import context_from_settings

RETAIN_REMEDY = (
    "Allow retained messages at the broker (mosquitto: retain_available true); status and result/last need them"
)

_VERSION = 0x84
_PERHAPS_THE_WILL = frozenset({None, 0x80, 0x83, 0x87, 0x90})
_LOGIN = (
    "Check username and password_file, and that the broker accepts this device with the client id {client_id}; see the "
    "broker's log"
)
_WILL = "Give the device write access to its topic `status`: the broker publishes the will there"
_REMEDIES = {
    0x85: "The broker does not take the client id {client_id}: set mqtt.client_id to the one that it expects",
    0x86: "Check username and password_file: the broker does not know this user name, or the password is wrong",
    0x88: "The broker is not ready: see its log, and try again",
    0x89: "The broker is too busy: see its log, and try again",
    0x8A: "The broker has banned this device: have the ban of the client id {client_id} or the user name lifted",
    0x97: "The broker's quota is used up: have it raised",
    0x9A: RETAIN_REMEDY,
    0x9B: "Allow QoS 1 at the broker: the device cannot work without acknowledgements",
    0x9C: "The broker sends its clients to another server: set mqtt.host to that one",
    0x9D: "The broker has moved to another server: set mqtt.host to that one",
    0x9F: "The broker limits how fast clients may connect: have the limit raised, or try again later",
}
_PORTS = {
    Kind.MQTT: "Use the broker's port with TLS, usually 8883, or remove tls_ca_file: this port speaks MQTT without TLS",
    Kind.TLS: "Set tls_ca_file to the certificate of the plant's authority: this port speaks TLS only",
    Kind.WEBSOCKET: "Set mqtt.port to the broker's port for MQTT itself, usually 1883, or 8883 with TLS: this one is "
    "for WebSockets",
    Kind.HTTP: "Set mqtt.host and mqtt.port to those of the broker, usually port 1883, or 8883 with TLS",
    Kind.OTHER: "Set mqtt.host and mqtt.port to those of the broker, usually port 1883, or 8883 with TLS",
    Kind.SILENT: "Check that this is the broker's address and port, and see the broker's log: it closes the "
    "connection, or does not answer",
}


def login_failure(session: Session, error: LinkError, *, had_will: bool) -> Failed:
    """The finding about a connection that was not accepted."""
    settings, code = session.settings, error.refusal_code
    if code in _REMEDIES:
        return Failed("mqtt", str(error), _REMEDIES[code].format(client_id=session.client_id))
    context = context_from_settings(settings)
    other = "3.1.1" if settings.protocol == "5" else "5"
    where = settings.host, settings.port, context
    if code == _VERSION or (
        code is None
        and refuses_version(*where, settings.protocol) is not False
        and refuses_version(*where, other) is False
    ):
        remedy = f'The broker does not speak MQTT {settings.protocol}: set protocol: "{other}"'
        return Failed("mqtt", str(error), remedy)
    if code is None and context is None and (failed := unexpected_listener(settings, "mqtt", Kind.MQTT)) is not None:
        return failed
    if code in _PERHAPS_THE_WILL and had_will and _accepts_without_will(session):
        return Failed("mqtt", f"{error}; without a will it accepts the connection", _WILL)
    return Failed("mqtt", str(error), _LOGIN.format(client_id=session.client_id))


def unexpected_listener(settings: MqttSettings, step: str, expected: Kind) -> Failed | None:
    """The finding about a port on which something else listens than what is expected; None if that does."""
    where, listener = f"{settings.host}:{settings.port}", listener_at(settings.host, settings.port)
    if listener.kind is expected:
        return None
    shown = f" (it answers: {listener.detail})" if listener.detail else ""
    return Failed(step, f"on {where} is {listener.kind.value}{shown}", _PORTS[listener.kind])


def _accepts_without_will(session: Session) -> bool:
    try:
        session.login(None)
    except LinkError:
        return False
    return True
