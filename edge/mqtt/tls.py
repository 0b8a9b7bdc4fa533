"""TLS to the broker: the context, failures explained to a technician, and detection of exchanged files."""

from __future__ import annotations

import errno
import ssl
import stat
from datetime import datetime, timezone
from pathlib import Path

from edge.mqtt.settings import MqttSettings
from edge.system.files import size_in_words

MAX_PEM_BYTES = 4 << 20
"""A list of all public authorities has a quarter of a megabyte."""

_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})
_INCOMPLETE = frozenset({24, *range(79, 94)})
"""What Python 3.13 and newer check besides (X509_V_FLAG_X509_STRICT): an authority without key usage, and the like."""
_PROTECTED_KEY = (
    "client_key_file is protected by a passphrase, which nobody can type here: store the key without one "
    "(openssl pkey -in KEY -out NEW_KEY), not readable by other users"
)
_ALERTS = (
    ("CERTIFICATE_REQUIRED", "the broker asks for a client certificate: set client_cert_file and client_key_file"),
    ("UNKNOWN_CA", "the broker does not know the authority of this device's certificate"),
    ("CERTIFICATE_EXPIRED", "the broker refuses this device's certificate: it is expired"),
    ("CERTIFICATE_REVOKED", "the broker refuses this device's certificate: it is revoked"),
    ("BAD_CERTIFICATE", "the broker refuses this device's certificate"),
    ("PEM_LIB", "client_cert_file or client_key_file is not a PEM file of a certificate and its key"),
    ("KEY_VALUES_MISMATCH", "client_key_file is not the key of client_cert_file"),
    (
        "EOF_OCCURRED",
        "the broker ended the TLS handshake; if it asks for a client certificate, set client_cert_file and "
        "client_key_file",
    ),
    ("WRONG_VERSION_NUMBER", "the broker does not use TLS on this port"),
    ("PROTOCOL_VERSION", "the broker does not support TLS 1.2 or newer"),
    ("UNSUPPORTED_PROTOCOL", "the broker does not support TLS 1.2 or newer"),
)


def context_from_settings(settings: MqttSettings) -> ssl.SSLContext | None:
    """A context from the files as they are now (TLS 1.2 or newer, host name checked); None if TLS is off.

    Raises:
        OSError: a file cannot be read, or is no certificate or key (`ssl.SSLError` is an OSError).
    """
    if settings.tls_ca_file is None:
        return None
    for path in (settings.tls_ca_file, settings.client_cert_file, settings.client_key_file):
        if path is not None:
            _check_size(path)
    context = ssl.create_default_context(cafile=str(settings.tls_ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_cert_file is not None:
        if settings.client_key_file is not None and b"ENCRYPTED" in settings.client_key_file.read_bytes():
            raise OSError(errno.EINVAL, _PROTECTED_KEY)
        # An empty password keeps OpenSSL from asking for one at the terminal.
        context.load_cert_chain(settings.client_cert_file, settings.client_key_file, password="")
    return context


def _check_size(path: Path) -> None:
    """OpenSSL reads a file to its end, whatever that is."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{path} is not a plain file")
    if found.st_size > MAX_PEM_BYTES:
        raise OSError(errno.EFBIG, f"{path} is larger than {size_in_words(MAX_PEM_BYTES)}, the most that is read")


def text_from_os_error(error: OSError) -> str:
    """The cause of a failed connection in plain words, or the library's text if the cause is not known here."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {_verification_text(error)}"
    if isinstance(error, ssl.SSLError):
        return text_from_tls_alert(error.reason or str(error)) or f"TLS failed: {error.reason or error}"
    return error.strerror or str(error)


def text_from_tls_alert(message: str) -> str | None:
    """Explain the OpenSSL alert named in `message`; None if it names none that a technician can act on."""
    message = message.upper().replace(" ", "_")
    return next((text for name, text in _ALERTS if name in message), None)


def _verification_text(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    if code == _NOT_YET_VALID:
        return f"the broker's certificate is not valid yet; this device's clock says {now}: check the clock"
    if code == _EXPIRED:
        return f"the broker's certificate is expired; this device's clock says {now}"
    if code in _UNKNOWN_AUTHORITY:
        return "the broker's certificate is not signed by the authority in tls_ca_file"
    if code in _WRONG_NAME:
        return "the broker's certificate is for another host name or address than mqtt.host"
    if code in _INCOMPLETE:
        return (
            f"a certificate of the broker or its authority is incomplete ({error.verify_message}), and Python 3.13 and "
            "newer refuse that: make them again as docs/mosquitto/README.md says"
        )
    return error.verify_message or str(error)


class TlsFiles:
    """Detects that the files of certificates and keys were exchanged."""

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        paths = (settings.tls_ca_file, settings.client_cert_file, settings.client_key_file)
        self._paths = tuple(path for path in paths if path is not None)
        self._used = self._seen = self._fingerprints()

    def renewed(self) -> bool:
        """Whether the files differ from those at construction, did not change since the last call, and can be used.

        Half-written files, or a key that does not fit, return False until they change again. Call it every few seconds.
        """
        seen, self._seen = self._seen, self._fingerprints()
        if self._seen != seen or seen == self._used:
            return False
        try:
            context_from_settings(self._settings)
        except OSError:
            return False
        return True

    def _fingerprints(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_fingerprint(path) for path in self._paths)


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
