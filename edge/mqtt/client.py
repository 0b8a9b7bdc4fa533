"""A paho client set up from the settings: MQTT 5 or 3.1.1, credentials, TLS.

Credentials are read again at every connection: from the files named in the settings, else from systemd's credentials
(`LoadCredential=mqtt-username:...`, `mqtt-password`), never from the command line or the environment itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import context_from_settings, text_from_os_error

CONNECT_TIMEOUT_S = 5.0
QOS = 1
USERNAME_CREDENTIAL, PASSWORD_CREDENTIAL = "mqtt-username", "mqtt-password"


class LinkError(Exception):
    """There is no connection, or it ended; the text is the reason.

    `cut_off` is True if the broker closed the connection, and False after a timeout.
    """

    def __init__(self, text: str, *, cut_off: bool = False) -> None:
        super().__init__(text)
        self.cut_off = cut_off


def client_from_settings(settings: MqttSettings, client_id: str) -> mqtt.Client:
    """A client with the credentials and certificates that the files hold now; it never reconnects by itself.

    Raises:
        LinkError: a file of credentials or certificates cannot be read.
    """
    five = settings.protocol == "5"
    client = mqtt.Client(
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
        line = path.read_text(encoding="utf-8-sig").partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise LinkError(f"the {what} file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LinkError(f"the {what} file {path} is not UTF-8 text: save it as UTF-8") from error
    if not line.strip():
        raise LinkError(f"the first line of the {what} file {path} is blank: write the {what} into it")
    return line
