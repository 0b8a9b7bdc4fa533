"""Signatures of commands: Ed25519 (RFC 8032) over a command's canonical bytes.

The bytes contain the device's root and the command's name, so that a signed command is valid for no other device and
no other command. Their first line separates them from other data signed with the key (a manifest starts with `{`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.bundle.keys import TrustedKey

_PURPOSE = b"procunit-command-v1\n"


def canonical_bytes(root: str, name: str, envelope: Mapping[str, object]) -> bytes:
    """The bytes to sign: the envelope as parsed from JSON, without its signature, with the device's root and the name.

    JSON with sorted keys, no spaces and only ASCII; numbers as Python writes them (the shortest text that is read back
    as the same number).
    """
    signed = {key: value for key, value in envelope.items() if key != "signature"}
    text = json.dumps(
        {"root": root, "name": name, "command": signed}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return _PURPOSE + text.encode()


def signature_from_key(key: Ed25519PrivateKey, root: str, name: str, envelope: Mapping[str, object]) -> str:
    """The envelope's signature in base64, as it is sent."""
    return base64.b64encode(key.sign(canonical_bytes(root, name, envelope))).decode()


def signer_of_command(
    root: str, name: str, envelope: Mapping[str, object], signature: str, trusted: Iterable[TrustedKey]
) -> TrustedKey | None:
    """The trusted key that signed this command for this device, or None."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except binascii.Error:
        return None
    data = canonical_bytes(root, name, envelope)
    for candidate in trusted:
        try:
            candidate.key.verify(raw, data)
        except InvalidSignature:
            continue
        return candidate
    return None
