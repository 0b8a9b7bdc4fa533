"""Sealing a bundle: the manifest with size and hash of every file, and the Ed25519 signature (RFC 8032) over its bytes.

Building and re-sealing share it; the device itself only verifies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.bundle.manifest import MANIFEST, SIGNATURE, Manifest, ManifestBody
from edge.bundle.reader import Bundle, TrustedKey, file_entry_from_path, manifest_bytes_from_manifest, open_bundle
from edge.errors import ProcunitError

DEMO_MARK = b"# Procunit demo key: gives authority in demonstrations only\n"
"""First line of a demo key's PEM file; text before the PEM block is a comment (RFC 7468, section 2)."""


@dataclass(frozen=True)
class SigningKey:
    """A private key that seals bundles; a demo key's seeded runs may be simulated."""

    key: Ed25519PrivateKey
    name: str
    demo: bool

    @property
    def trusted(self) -> TrustedKey:
        """Its public half, as a device that trusts it would hold it."""
        return TrustedKey(self.name, self.key.public_key(), self.demo)


def signing_key_from_file(path: Path) -> SigningKey:
    """An unencrypted Ed25519 private key in PEM form.

    Raises:
        ProcunitError: the file is missing or holds no such key.
    """
    try:
        data = path.read_bytes()
        key = load_pem_private_key(data, password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ProcunitError(f"cannot read the signing key: {error}", where=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ProcunitError(
            "not an Ed25519 private key",
            where=str(path),
            remedy="Make one with: openssl genpkey -algorithm ed25519 -out FILE",
        )
    return SigningKey(key, path.name, data.startswith(DEMO_MARK))


@contextmanager
def new_directory(path: Path, *, replace: bool) -> Iterator[Path]:
    """A directory that appears at `path` whole, or not at all: filled beside it, flushed to disk, then renamed.

    With `replace` the old one is moved aside first and removed at the end; it is put back if the last step fails.

    Raises:
        ProcunitError: something is at `path` already and may not be replaced.
    """
    partial, aside = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
    if aside.exists() and not path.exists():  # a power cut between the two renames
        aside.rename(path)
    if path.exists() and not replace:
        raise ProcunitError(
            "exists already", where=str(path), remedy="Choose another directory, or use --force to replace it"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _flush(partial)
        if path.exists():
            path.rename(aside)
        try:
            partial.rename(path)
        except OSError:
            if aside.exists():
                aside.rename(path)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    sync(path.parent)


def seal(directory: Path, body: ManifestBody, key: SigningKey) -> Bundle:
    """Write the manifest over all files in `directory` and its signature, and verify the result as a device would.

    Raises:
        ProcunitError: the directory holds something that a bundle may not.
    """
    files = {
        entry.relative_to(directory).as_posix(): file_entry_from_path(entry)
        for entry in sorted(directory.rglob("*"))
        if entry.is_file() and entry not in (directory / MANIFEST, directory / SIGNATURE)
    }
    manifest = Manifest.model_validate({**body.model_dump(), "files": files})
    manifest_bytes = manifest_bytes_from_manifest(manifest)
    (directory / MANIFEST).write_bytes(manifest_bytes)
    (directory / SIGNATURE).write_bytes(key.key.sign(manifest_bytes))
    return open_bundle(directory, (key.trusted,))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and have it and its name on the disk.

    Raises:
        OSError: the disk does not take it.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)
    sync(path.parent)


def _flush(directory: Path) -> None:
    for entry in directory.rglob("*"):
        sync(entry)
    sync(directory)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
