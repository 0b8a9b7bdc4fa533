"""Ed25519 keys (RFC 8032): public keys that a device trusts, and private keys that sign bundles, banks and commands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from edge.errors import ProcunitError
from edge.system.access import refuse_if_anybody_may_write, refuse_if_readable_by_others
from edge.system.files import bytes_from_file

MAX_KEY_BYTES = 64 << 10

DEMO_MARK = b"# Procunit demo key: gives authority in demonstrations only\n"
"""First line of a demo key's PEM file; text before the PEM block is a comment (RFC 7468, section 2)."""
_MARK_WORDS = b"procunit demo key"
MAX_KEY_BYTES = 64 << 10


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


def has_demo_mark(pem: bytes) -> bool:
    """True if a key file says that it is a demo key: anywhere in it, in any case, with any white space between."""
    return _MARK_WORDS in b" ".join(pem.replace(b"\0", b"").lower().split())


def trusted_key_from_file(path: Path, *, demo: bool) -> TrustedKey:
    """Read an Ed25519 public key in PEM form; a file with the mark of demo keys is a demo key even if `demo` is false.

    Raises:
        ProcunitError: the file is missing, does not contain such a key, or everybody may change it.
    """
    try:
        data = bytes_from_file(path, MAX_KEY_BYTES, check=refuse_if_anybody_may_write)
        key = load_pem_public_key(data)
    except ValueError as error:
        raise ProcunitError(f"cannot read the public key: {error}", where=str(path)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ProcunitError(
            "not an Ed25519 public key", where=str(path), remedy="Use the .pub file beside the signing key"
        )
    return TrustedKey(path.name, key, demo or has_demo_mark(data))


def trusted_keys_from_files(
    keys: Iterable[Path], demo_keys: Iterable[Path], bank_keys: Iterable[Path] = ()
) -> tuple[TrustedKey, ...]:
    """Read the trusted keys, those named for production first; a key that is named or marked as demo once is one.

    The `bank_keys` are not among them, but their marks count.

    Raises:
        ProcunitError: a file is missing, does not contain an Ed25519 public key, or everybody may change it.
    """
    trusted = (
        *(trusted_key_from_file(path, demo=False) for path in keys),
        *(trusted_key_from_file(path, demo=True) for path in demo_keys),
    )
    others = (trusted_key_from_file(path, demo=False) for path in bank_keys)
    return demo_keys_alike((*trusted, *others))[: len(trusted)]


def demo_keys_alike(keys: Iterable[TrustedKey]) -> tuple[TrustedKey, ...]:
    """The keys, each a demo key if the same key is one under any of its names."""
    keys = tuple(keys)
    demo = {key.key.public_bytes_raw() for key in keys if key.demo}
    return tuple(replace(key, demo=key.key.public_bytes_raw() in demo) for key in keys)


def keys_for_commands(trusted: Iterable[TrustedKey], *, demo_bundle: bool) -> tuple[TrustedKey, ...]:
    """The keys that may sign commands: demo keys only if a demo key signed the bundle in use."""
    return tuple(key for key in trusted if demo_bundle or not key.demo)


def signing_key_from_file(path: Path) -> SigningKey:
    """Read an unencrypted Ed25519 private key in PEM form.

    It is a demo key if the file is marked as one, or the public key of the same name beside it (`.pub`).

    Raises:
        ProcunitError: the file is missing, does not contain such a key, or others than its owner may read it.
    """
    try:
        data = bytes_from_file(path, MAX_KEY_BYTES, check=refuse_if_readable_by_others)
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ProcunitError(f"cannot read the signing key: {error}", where=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ProcunitError(
            "not an Ed25519 private key",
            where=str(path),
            remedy="Make one with: openssl genpkey -algorithm ed25519 -out FILE",
        )
    return SigningKey(key, path.name, has_demo_mark(data) or _public_half_is_marked(path, key))


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


def _public_half_is_marked(path: Path, key: Ed25519PrivateKey) -> bool:
    try:
        beside = trusted_key_from_file(path.with_suffix(".pub"), demo=False)
    except (ProcunitError, ValueError):
        return False
    return beside.demo and beside.key.public_bytes_raw() == key.public_key().public_bytes_raw()
