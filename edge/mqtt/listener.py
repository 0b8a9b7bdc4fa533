"""Finds out what listens on a TCP port that does not behave like the expected broker."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from enum import Enum

_TIMEOUT_S = 2.0
_CONNACK, _TLS_ALERT = 0x20, b"\x15\x03"
_UNSUPPORTED_VERSION = frozenset({0x01, 0x84})
_LEVELS = {"3.1.1": 4, "5": 5}
_UPGRADE = (
    "GET /mqtt HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: cHJvY3VuaXQtY2hlY2stMQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Kind(Enum):
    """What listens on a port."""

    MQTT = "MQTT without TLS"
    TLS = "TLS"
    WEBSOCKET = "MQTT over WebSockets"
    HTTP = "a web server"
    OTHER = "another program"
    SILENT = "a program that answers nothing"


@dataclass(frozen=True, slots=True)
class Listener:
    """What listens on a port; `detail` are the first bytes of its answer, for people."""

    kind: Kind
    detail: str = ""


def listener_at(host: str, port: int) -> Listener:
    """Find out what listens there, by a few short connections that nobody is disturbed by."""
    answer = _exchange(host, port, _connect_packet(4))
    if answer[:1] == bytes([_CONNACK]):
        return Listener(Kind.MQTT)
    if answer.startswith(_TLS_ALERT) or _speaks_tls(host, port):
        return Listener(Kind.TLS)
    web = _exchange(host, port, _UPGRADE.format(host=host).encode())
    if web.startswith(b"HTTP/"):
        first_line = web.split(b"\r\n", 1)[0]
        return Listener(Kind.WEBSOCKET if b" 101 " in first_line + b" " else Kind.HTTP, _shown(first_line))
    found = answer or web
    return Listener(Kind.OTHER, _shown(found)) if found else Listener(Kind.SILENT)


def refuses_version(host: str, port: int, context: ssl.SSLContext | None, protocol: str) -> bool | None:
    """Whether the broker refuses this version of MQTT, "5" or "3.1.1"; None if it does not answer at all."""
    answer = _exchange(host, port, _connect_packet(_LEVELS[protocol]), context)
    if answer[:1] != bytes([_CONNACK]) or len(answer) < 4:
        return None
    return answer[3] in _UNSUPPORTED_VERSION


def _exchange(host: str, port: int, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """The first bytes of the answer to `request`; empty if there is none."""
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as tcp:
            connection = tcp if context is None else context.wrap_socket(tcp, server_hostname=host)
            connection.sendall(request)
            return connection.recv(256)
    except OSError:
        return b""


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as tcp, context.wrap_socket(tcp, server_hostname=host):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _connect_packet(level: int) -> bytes:
    client_id = b"procunit-check"
    properties = b"\x00" if level == _LEVELS["5"] else b""
    body = b"\x00\x04MQTT" + bytes([level, 0x02]) + struct.pack("!H", 10) + properties
    body += struct.pack("!H", len(client_id)) + client_id
    return bytes([0x10, len(body)]) + body


def _shown(answer: bytes) -> str:
    text = answer[:60].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() and letter.isascii() else "." for letter in text).strip()
