"""Sealing a bundle: the manifest with size and hash of every file, and the Ed25519 signature (RFC 8032) over its bytes.

Used to build and to re-seal bundles; the device only verifies.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge.bundle.keys import SigningKey
from edge.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest, ManifestBody
from edge.bundle.onnx_walk import GRAPH_SUFFIX, check_graph
from edge.bundle.reader import Bundle, file_entry_from_path, manifest_bytes_from_manifest, open_bundle


def seal(directory: Path, body: ManifestBody, key: SigningKey) -> Bundle:
    """Write a manifest of all files in `directory` and its signature, then verify the result as a device does.

    Raises:
        ProcunitError: the directory contains something that a bundle may not contain; a manifest with a graph that may
            not be run (`edge.bundle.onnx_walk`) is not even signed.
    """
    files = {
        entry.relative_to(directory).as_posix(): _entry(entry)
        for entry in sorted(directory.rglob("*"))
        if entry.is_file() and entry not in (directory / MANIFEST, directory / SIGNATURE)
    }
    manifest = Manifest.model_validate({**body.model_dump(), "files": files})
    manifest_bytes = manifest_bytes_from_manifest(manifest)
    (directory / MANIFEST).write_bytes(manifest_bytes)
    (directory / SIGNATURE).write_bytes(key.key.sign(manifest_bytes))
    return open_bundle(directory, (key.trusted,))


def _entry(path: Path) -> FileEntry:
    """Size and hash of a file; of a graph, those of the bytes that were checked."""
    if path.suffix != GRAPH_SUFFIX:
        return file_entry_from_path(path)
    data = path.read_bytes()
    check_graph(data, str(path))
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
