"""A version of a grown memory bank: a signed record of what it adds to a bundle's bank, and the rows beside it.

`delta.json` is the record, with the hash of `rows.safetensors`; `delta.sig` is the Ed25519 signature (RFC 8032) of its
raw bytes, checked before they are parsed. Every version is relative to the bundle, not to the version before. Its key
may extend the bank and lower the anomaly threshold: the record has no field for anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator
from safetensors.numpy import save

from edge.bank.growth import MAX_ADDED_ROWS, GrownBank
from edge.bundle.keys import (
    SigningKey,
    TrustedKey,
    demo_keys_alike,
    keys_for_commands,
    signer_of_bytes,
    trusted_key_from_file,
)
from edge.bundle.manifest import BANK_KEY, Count, FileEntry, Finite, OneLine, ScoreLimit
from edge.bundle.reader import MAX_BANK_ROWS, Bundle, read_small, rows_from_bytes
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.files import bytes_from_file

DELTA, DELTA_SIGNATURE, ROWS = "delta.json", "delta.sig", "rows.safetensors"
MAX_VERSION = 9999
MAX_SOURCES = 4096

_HEADER_BYTES = 4096
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Record):
    """A frame that the bank was grown by: file hash, name (part, result or file), number of rows, score afterwards."""

    sha256: _Sha256
    name: OneLine
    rows: Count
    score: Finite


class DeltaRecord(Record):
    """`delta.json`: the rows added to the bank of one bundle and dropped from it, and the new anomaly limit."""

    format: Literal["procunit-bank-delta"] = "procunit-bank-delta"
    format_version: Literal[1] = 1
    bundle_id: _Sha256
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    rows: FileEntry
    removed: Annotated[tuple[Annotated[int, Field(ge=0, lt=MAX_BANK_ROWS)], ...], Field(max_length=MAX_BANK_ROWS)] = ()
    anomaly: ScoreLimit
    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=MAX_SOURCES)]
    made_at_utc: OneLine
    made_by: OneLine

    @field_validator("removed")
    @classmethod
    def _ascending(cls, removed: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in pairwise(removed)):
            raise ValueError("the rows removed must ascend")
        return removed


@dataclass(frozen=True, eq=False)
class BankDelta:
    """A verified version: its record, the grown bank, and the key that signed it."""

    record: DeltaRecord
    bank: GrownBank
    signed_by: TrustedKey


def keys_for_bank(
    bank_keys: Iterable[Path], keys: tuple[TrustedKey, ...], *, demo_bundle: bool
) -> tuple[TrustedKey, ...]:
    """The keys that may sign versions of a bank: the `bank_keys`, for nothing else, and those that may sign commands.

    A demo key among the `bank_keys` may sign as little as any other demo key.

    Raises:
        ProcunitError: a file of `bank_keys` does not contain an Ed25519 public key.
    """
    line_keys = (trusted_key_from_file(path, demo=False) for path in bank_keys)
    return keys_for_commands(demo_keys_alike((*line_keys, *keys)), demo_bundle=demo_bundle)


def write_delta(
    directory: Path,
    bank: GrownBank,
    key: SigningKey,
    *,
    bundle_id: str,
    version: int,
    sources: tuple[Source, ...],
    made_at_utc: str,
    made_by: str,
) -> None:
    """Write the three files of a version into an empty directory.

    Raises:
        ProcunitError: a value is outside the record's limits.
        OSError: the disk refuses a file.
    """
    data = save({BANK_KEY: np.ascontiguousarray(bank.added)})
    entry = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    try:
        record = DeltaRecord(
            bundle_id=bundle_id,
            version=version,
            rows=entry,
            removed=bank.removed,
            anomaly=bank.limit,
            sources=sources,
            made_at_utc=made_at_utc,
            made_by=made_by,
        )
    except ValidationError as error:
        raise ProcunitError(first_problem(error), remedy="Take the frames into the next training instead") from error
    record_bytes = (record.model_dump_json(indent=1) + "\n").encode()
    (directory / ROWS).write_bytes(data)
    (directory / DELTA).write_bytes(record_bytes)
    (directory / DELTA_SIGNATURE).write_bytes(key.key.sign(record_bytes))


def delta_from_directory(
    directory: Path, version: int, bundle: Bundle, base: NDArray[np.float32], keys: tuple[TrustedKey, ...]
) -> BankDelta:
    """Read a version and verify all of it; `base` [M, D + 1] is the bundle's bank.

    Raises:
        ProcunitError: it differs from what was signed, or does more than a version may; the text names the file.
    """
    record_bytes = read_small(directory / DELTA)
    where = str(directory / DELTA)
    signed_by = signer_of_bytes(record_bytes, read_small(directory / DELTA_SIGNATURE), keys, where)
    try:
        record = DeltaRecord.model_validate_json(record_bytes)
    except ValidationError as error:
        raise ProcunitError(first_problem(error), where=where) from error
    if (record.bundle_id, record.version) != (bundle.bundle_id, version):
        raise ProcunitError(
            f"it is version {record.version} for bundle {record.bundle_id[:12]}, "
            f"not version {version} for {bundle.bundle_id[:12]}",
            where=where,
        )
    added = _added(directory / ROWS, record, columns=base.shape[1])
    _check_powers(record, added, base, bundle.manifest.anomaly, where)
    return BankDelta(record, GrownBank(base, added, record.removed, record.anomaly), signed_by)


def _added(path: Path, record: DeltaRecord, columns: int) -> NDArray[np.float32]:
    """The rows [a, D + 1] of a version; the file is read only if its size is as signed and within the limit."""
    largest_bytes = MAX_ADDED_ROWS * columns * 4 + _HEADER_BYTES
    try:
        if path.is_symlink() or not path.is_file():
            raise ProcunitError("missing, or not a plain file", where=str(path))
        size_bytes = path.stat().st_size
        if size_bytes != record.rows.size_bytes or size_bytes > largest_bytes:
            raise ProcunitError(f"{size_bytes} bytes long, {record.rows.size_bytes} were signed", where=str(path))
        data = bytes_from_file(path, largest_bytes)
    except OSError as error:
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if hashlib.sha256(data).hexdigest() != record.rows.sha256:
        raise ProcunitError("its content is not what was signed (sha256 differs)", where=str(path))
    added = rows_from_bytes(data, str(path))
    if added.shape[1] != columns:
        raise ProcunitError(f"{added.shape[1] - 1} features per row, the bank has {columns - 1}", where=str(path))
    return added


def _check_powers(
    record: DeltaRecord, added: NDArray[np.float32], base: NDArray[np.float32], own: ScoreLimit | None, where: str
) -> None:
    """Refuse a version that does more than its key may do: add rows, and lower the anomaly threshold."""
    largest_scale = base[:, -1].max()
    excess = max(0, len(base) + len(added) - MAX_BANK_ROWS)
    if own is None:
        problem = "the bundle has no anomaly score"
    elif record.anomaly.threshold > own.threshold:
        problem = f"it raises the anomaly threshold above the bundle's {own.threshold:.4f}"
    elif len(added) > MAX_ADDED_ROWS or sum(source.rows for source in record.sources) != len(added):
        problem = f"its {len(added)} rows are more than {MAX_ADDED_ROWS}, or not as many as its frames gave"
    elif len(record.removed) != excess or any(row >= len(base) for row in record.removed):
        problem = f"it drops {len(record.removed)} rows of the bundle's bank, and has to drop {excess}"
    elif added[:, -1].max() > largest_scale:
        problem = (
            f"the largest local scale of its rows is {added[:, -1].max():.4f}, of the bundle's bank {largest_scale:.4f}"
        )
    elif np.delete(base[:, -1], record.removed).max(initial=added[:, -1].max()) < largest_scale:
        problem = "it drops the row with the largest local scale of the bundle's bank, which no other row can replace"
    else:
        return
    raise ProcunitError(problem, where=where, remedy="A version of a bank may only add rows and lower the threshold")
