"""The bundle: a signed directory with everything that a device needs to inspect parts, except built engines.

`manifest.json` names every other file with its size and sha256; `manifest.sig` is the Ed25519 signature (RFC 8032) of
the manifest's raw bytes, checked before they are parsed. No file is a pickle. Opening checks every file; whoever uses
one gets its bytes from `BundleContent.file`, which checks them again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.bundle.contents import files_in
from edge.bundle.damage import damage_refused
from edge.bundle.keys import TrustedKey, signer_of_bytes
from edge.bundle.manifest import (
    BANK,
    BANK_KEY,
    CALIBRATION,
    GOLDEN,
    KNOWN,
    MANIFEST,
    PRECISIONS,
    SIGNATURE,
    FileEntry,
    GoldenSet,
    KnownPhotos,
    Manifest,
    Precision,
    graph_files,
)
from edge.bundle.onnx_walk import GRAPH_SUFFIX, check_graph
from edge.bundle.records import CalibrationRecord
from edge.bundle.sealed_file import SealedFile, opened_below
from edge.errors import ProcunitError, first_problem
from edge.system.files import bytes_from_file
from edge.system.tensor_file import tensors_from_bytes

MAX_MANIFEST_BYTES = 4 << 20
MAX_BANK_ROWS = 16_384
MAX_BANK_BYTES = 256 << 20
"""`MAX_BANK_ROWS` rows of 4,096 numbers, far more than any patch has."""

RecordT = TypeVar("RecordT", Manifest, GoldenSet, KnownPhotos, CalibrationRecord)


@dataclass(frozen=True)
class BundleContent:
    """A bundle whose file names, sizes and hashes match its manifest; its signature was not checked."""

    path: Path
    manifest: Manifest
    bundle_id: str

    @property
    def separate(self) -> bool:
        """True if classifier and extractor are two graphs, False if they are one fused graph."""
        return set(graph_files(separate=True)) <= set(self.manifest.files)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the bundle has graphs of, the fastest first."""
        return tuple(p for p in PRECISIONS if set(graph_files(p, separate=self.separate)) <= set(self.manifest.files))

    def file(self, name: str) -> SealedFile:
        """A file that the manifest lists; its bytes are checked whenever they are read."""
        return SealedFile(self.path, name, self.manifest.files[name])

    def graphs(self, precision: Precision = "fp32") -> tuple[SealedFile, ...]:
        """The ONNX graphs that together have all outputs of the contract."""
        return tuple(self.file(name) for name in graph_files(precision, separate=self.separate))

    def bank(self) -> NDArray[np.float32]:
        """The memory bank, float32 [M, D + 1]: patches of good parts, the local scale last (`edge.anomaly`)."""
        return rows_from_bytes(self.file(BANK).read_bytes(), str(self.path / BANK))

    def golden(self) -> GoldenSet:
        """The golden frames with their reference scores; the manifest lists every file.

        Raises:
            ProcunitError: the record is damaged or does not fit the manifest.
        """
        golden = _parsed(GoldenSet, self.file(GOLDEN).read_bytes(), self.path / GOLDEN)
        for frame in golden.frames:
            if frame.file not in self.manifest.files or len(frame.type_scores) != len(self.manifest.types):
                raise ProcunitError(
                    f"golden frame {frame.file!r} does not fit the manifest", where=str(self.path / GOLDEN)
                )
        return golden

    def calibration(self) -> CalibrationRecord | None:
        """The calibration record; None if the bundle has none.

        Raises:
            ProcunitError: the record is damaged.
        """
        if CALIBRATION not in self.manifest.files:
            return None
        return _parsed(CalibrationRecord, self.file(CALIBRATION).read_bytes(), self.path / CALIBRATION)

    def known(self) -> KnownPhotos:
        """The photographs that the bundle was made from; empty if the bundle does not list them.

        Raises:
            ProcunitError: the record is damaged.
        """
        if KNOWN not in self.manifest.files:
            return KnownPhotos(photos=())
        return _parsed(KnownPhotos, self.file(KNOWN).read_bytes(), self.path / KNOWN)


@dataclass(frozen=True)
class Bundle(BundleContent):
    """A verified bundle: `signed_by` signed the manifest, which file names, sizes and hashes match."""

    signed_by: TrustedKey


def bundle_id_from_manifest(manifest_bytes: bytes) -> str:
    """sha256 of the manifest's raw bytes; as they contain the hash of every other file, it identifies all content."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def manifest_bytes_from_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is signed and stored: sorted keys, indented, one line feed at the end."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


def file_entry_from_path(path: Path) -> FileEntry:
    """Size and hash of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size)


def open_bundle(path: Path, trusted: tuple[TrustedKey, ...]) -> Bundle:
    """Verify a bundle completely and open it.

    Raises:
        ProcunitError: something differs from what was signed; the text names the file.
    """
    with damage_refused(path):
        manifest_bytes = _manifest_bytes(path)
        signed_by = signer_of_bytes(manifest_bytes, read_small(path / SIGNATURE), trusted, str(path / SIGNATURE))
        content = _content(path, manifest_bytes)
    return Bundle(path, content.manifest, content.bundle_id, signed_by)


def open_without_signature_check(path: Path) -> BundleContent:
    """Open a bundle after checking its hashes alone: for offline tools that give it no authority, never for a device.

    Raises:
        ProcunitError: its content does not match its manifest.
    """
    with damage_refused(path):
        return _content(path, _manifest_bytes(path))


def bank_from_file(path: Path) -> NDArray[np.float32]:
    """Read and check a bank: one finite float32 matrix of at most `MAX_BANK_ROWS` rows, every local scale above 0.

    Raises:
        ProcunitError: the file is not such a safetensors file.
    """
    return rows_from_bytes(bytes_from_file(path, MAX_BANK_BYTES), str(path))


def rows_from_bytes(data: bytes, where: str) -> NDArray[np.float32]:
    """Rows of a bank from the content of a safetensors file, checked as in `bank_from_file`.

    Raises:
        ProcunitError: the content is not such a bank; the text names `where`.
    """
    tensors = tensors_from_bytes(data, where)
    bank = tensors.get(BANK_KEY)
    if bank is None or len(tensors) != 1 or bank.dtype != np.float32 or bank.ndim != 2:
        raise ProcunitError(f"the file must contain one float32 matrix named {BANK_KEY!r}", where=where)
    rows = np.ascontiguousarray(bank, np.float32)
    if not 1 <= len(rows) <= MAX_BANK_ROWS or not np.isfinite(rows).all():
        raise ProcunitError(f"the bank must have 1 to {MAX_BANK_ROWS} rows of finite numbers", where=where)
    if rows.shape[1] < 2 or not (rows[:, -1] > 0).all():
        raise ProcunitError(
            "each row of the bank must have features and, as its last number, a local scale above 0",
            where=where,
            remedy="Export and build the bundle again: banks of earlier versions had no local scale",
        )
    return rows


def read_small(path: Path) -> bytes:
    """Read a record or a signature: a plain file of at most `MAX_MANIFEST_BYTES`.

    Raises:
        ProcunitError: the file is missing, a link, too large or unreadable.
    """
    with opened_below(path.parent, path.name) as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ProcunitError(f"larger than {MAX_MANIFEST_BYTES} bytes", where=str(path))
    return data


def _manifest_bytes(path: Path) -> bytes:
    if not path.is_dir():
        raise ProcunitError(
            "no bundle here", where=str(path), remedy="Name the directory that `procunit bundle build` made"
        )
    return read_small(path / MANIFEST)


def _content(path: Path, manifest_bytes: bytes) -> BundleContent:
    manifest = _parsed(Manifest, manifest_bytes, path / MANIFEST)
    _check_files(path, manifest)
    return BundleContent(path, manifest, bundle_id_from_manifest(manifest_bytes))


def _parsed(record: type[RecordT], data: bytes, path: Path) -> RecordT:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        raise ProcunitError(first_problem(error), where=str(path)) from error


def _check_files(path: Path, manifest: Manifest) -> None:
    present = files_in(path)
    for name in sorted(present - set(manifest.files) - {MANIFEST, SIGNATURE}):
        raise ProcunitError("not listed in the manifest", where=str(path / name), remedy="Copy the bundle again")
    for name, expected in manifest.files.items():
        if name not in present:
            raise ProcunitError(
                "listed in the manifest but missing", where=str(path / name), remedy="Copy the bundle again"
            )
        file = SealedFile(path, name, expected)
        if name.endswith(GRAPH_SUFFIX):
            check_graph(file.read_bytes(), str(file))
        else:
            file.check()
