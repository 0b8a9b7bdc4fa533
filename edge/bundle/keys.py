"""Ed25519 keys (RFC 8032): public keys that a device trusts, and private keys that sign bundles, banks and commands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from edge.errors import ProcunitError
from edge.system.files import bytes_from_file

MAX_KEY_BYTES = 64 << 10

DEMO_MARK = b"# Procunit demo key: gives authority in demonstrations only\n"
"""First line of a demo key's PEM file; text before the PEM block is a comment (RFC 7468, section 2)."""


@dataclass(frozen=True)
class TrustedKey:
    """A public key that the device accepts; a demo key gives authority in demonstrations only."""

    name: str
    key: Ed25519PublicKey
    demo: bool


@dataclass(frozen=True)
class SigningKey:
    """A private key; seeded runs in a bundle that a demo key seals may be simulated."""

    key: Ed25519PrivateKey
    name: str
    demo: bool

    @property
    def trusted(self) -> TrustedKey:
        """The public half, as a device that trusts it holds it."""
        return TrustedKey(self.name, self.key.public_key(), self.demo)


def trusted_key_from_file(path: Path, *, demo: bool) -> TrustedKey:
    """Read an Ed25519 public key in PEM form.

    Raises:
        ProcunitError: the file is missing or does not contain such a key.
    """
    try:
        key = load_pem_public_key(bytes_from_file(path, MAX_KEY_BYTES))
    except ValueError as error:
        raise ProcunitError(f"cannot read the public key: {error}", where=str(path)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ProcunitError(
            "not an Ed25519 public key", where=str(path), remedy="Use the .pub file beside the signing key"
        )
    return TrustedKey(path.name, key, demo)


def trusted_keys_from_files(keys: Iterable[Path], demo_keys: Iterable[Path]) -> tuple[TrustedKey, ...]:
    """Read the trusted keys, production keys first.

    Raises:
        ProcunitError: a file is missing or does not contain an Ed25519 public key.
    """
    return (
        *(trusted_key_from_file(path, demo=False) for path in keys),
        *(trusted_key_from_file(path, demo=True) for path in demo_keys),
    )


def keys_for_commands(trusted: Iterable[TrustedKey], *, demo_bundle: bool) -> tuple[TrustedKey, ...]:
    """The keys that may sign commands: demo keys only if a demo key signed the bundle in use."""
    return tuple(key for key in trusted if demo_bundle or not key.demo)


def signing_key_from_file(path: Path) -> SigningKey:
    """Read an unencrypted Ed25519 private key in PEM form.

    Raises:
        ProcunitError: the file is missing or does not contain such a key.
    """
    try:
        data = bytes_from_file(path, MAX_KEY_BYTES)
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ProcunitError(f"cannot read the signing key: {error}", where=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ProcunitError(
            "not an Ed25519 private key",
            where=str(path),
            remedy="Make one with: openssl genpkey -algorithm ed25519 -out FILE",
        )
    return SigningKey(key, path.name, data.startswith(DEMO_MARK))


def signer_of_bytes(data: bytes, signature: bytes, trusted: tuple[TrustedKey, ...], where: str) -> TrustedKey:
    """The trusted key that signed `data`, the raw bytes of the record at `where`.

    Raises:
        ProcunitError: the signature is not by any of these keys.
    """
    for candidate in trusted:
        try:
            candidate.key.verify(signature, data)
        except InvalidSignature:
            continue
        return candidate
    names = ", ".join(key.name for key in trusted) or "none"
    raise ProcunitError(
        f"the signature is not by any trusted key ({names})",
        where=where,
        remedy="Trust the right public key, or ask the signer: the content may have been changed",
    )
