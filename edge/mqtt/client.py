"""A paho client set up from the settings: MQTT 5 or 3.1.1, credentials, TLS.

Credentials are read again at every connection: from the files named in the settings, else from systemd's credentials
(`LoadCredential=mqtt-username:...`, `mqtt-password`), never from the command line or the environment itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edge.errors import ProcunitError
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import context_from_settings, text_from_os_error
from edge.system.files import bytes_from_file

CONNECT_TIMEOUT_S = 5.0
QOS = 1
MAX_INCOMING_BYTES = 65_536
"""Largest packet that is read, and that a broker of MQTT 5 is asked to send."""
OVERSIZE_TEXT = "this device reads at most"
_MAX_CREDENTIAL_BYTES = 64 << 10
USERNAME_CREDENTIAL, PASSWORD_CREDENTIAL = "mqtt-username", "mqtt-password"


class OversizeError(OSError):
    """A packet of the broker is longer than this device reads; paho logs the text, and ends the connection."""


class BoundedClient(mqtt.Client):
    """paho's client, which ends the connection at a packet longer than `max_packet_bytes`, before it reads it.

    paho collects a whole packet in memory, twice, and MQTT 3.1.1 cannot tell a broker to send no large ones. The
    length is known after five bytes: paho then asks its socket for all that is left of the packet. `on_oversize` is
    called on paho's network thread.
    """

    max_packet_bytes = MAX_INCOMING_BYTES
    on_oversize: Callable[[], None] | None = None

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.max_packet_bytes:
            if self.on_oversize is not None:
                self.on_oversize()
            raise OversizeError(
                f"the broker sends a message of {bufsize} bytes; {OVERSIZE_TEXT} {self.max_packet_bytes}"
            )
        return bytes(super()._sock_recv(bufsize))


class LinkError(Exception):
    """There is no connection, or it ended; the text is the reason.

    `cut_off` is True if the broker closed the connection, and False after a timeout; `taken_over` if it said that
    another client uses the client id. `refusal_code` is the code with which it refused the connection.
    """

    def __init__(
        self, text: str, *, cut_off: bool = False, taken_over: bool = False, refusal_code: int | None = None
    ) -> None:
        super().__init__(text)
        self.cut_off, self.taken_over, self.refusal_code = cut_off, taken_over, refusal_code


class ProbingClient(BoundedClient):
    """Never completes a message of QoS 2: the broker answers whether it may be published, but hands it on to nobody.

    `on_pubrec` is called with packet id and reason code.
    """

    on_pubrec: Callable[[int, int], None]

    def _handle_pubrec(self) -> MQTTErrorCode:
        packet = bytes(self._in_packet["packet"])
        self.on_pubrec(int.from_bytes(packet[:2], "big"), packet[2] if len(packet) > 2 else 0)
        return MQTTErrorCode.MQTT_ERR_SUCCESS  # paho itself would send PUBREL now


def client_from_settings(
    settings: MqttSettings, client_id: str, kind: type[BoundedClient] = BoundedClient
) -> BoundedClient:
    """A client with the credentials and certificates that the files hold now; it never reconnects by itself.

    Raises:
        LinkError: a file of credentials or certificates cannot be read.
    """
    five = settings.protocol == "5"
    client = kind(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if five else True,
        protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    username, password = credentials(settings)
    if username is not None:
        client.username_pw_set(username, password)
    try:
        context = context_from_settings(settings)
    except OSError as error:
        raise LinkError(f"the certificate files cannot be used: {text_from_os_error(error)}") from error
    if context is not None:
        client.tls_set_context(context)
    return client


def credentials(settings: MqttSettings, environment: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """User name and password, each from the settings or from systemd's credentials.

    Raises:
        LinkError: a file cannot be read, is not UTF-8 text, or has nothing in its first line.
    """
    folder = environment.get("CREDENTIALS_DIRECTORY")
    username = settings.username or _credential(folder, USERNAME_CREDENTIAL, "user name")
    if settings.password_file is not None:
        return username, _first_line(settings.password_file, "password")
    return username, None if username is None else _credential(folder, PASSWORD_CREDENTIAL, "password")


def _credential(folder: str | None, name: str, what: str) -> str | None:
    path = Path(folder, name) if folder else None
    return _first_line(path, what) if path is not None and path.exists() else None


def _first_line(path: Path, what: str) -> str:
    """The first line, without the byte-order mark that some editors write."""
    try:
        line = bytes_from_file(path, _MAX_CREDENTIAL_BYTES).decode("utf-8-sig").partition("\n")[0].rstrip("\r")
    except ProcunitError as error:
        reason = error.what.removeprefix("cannot be read: ")
        raise LinkError(f"the {what} file {path} cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise LinkError(f"the {what} file {path} is not UTF-8 text: save it as UTF-8") from error
    if not line.strip():
        raise LinkError(f"the first line of the {what} file {path} is blank: write the {what} into it")
    return line
