"""The versions of a bundle's grown memory bank on this device, and which of them is in use.

`state_dir/bank/BUNDLE_ID/0001/` and so on hold the versions (`bank_delta.py`); `in-use.json` beside them lists the
numbers that led to the one in use, which comes last. Undoing takes the last one off the list; the empty list is the
bundle's own bank. The list says only which signed versions count, so it needs no signature.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from edge.bank.delta import MAX_VERSION, BankDelta, Source, delta_from_directory, write_delta
from edge.bank.evidence import evidence_from_bundle
from edge.bank.growth import GrownBank, own_bank, refuse_missed
from edge.bundle.keys import SigningKey, TrustedKey
from edge.bundle.manifest import ScoreLimit
from edge.bundle.reader import Bundle, read_small
from edge.errors import ProcunitError, first_problem
from edge.state_dir import BANK_FOLDER
from edge.system.clock import utc_now
from edge.system.files import new_directory, write_whole

IN_USE = "in-use.json"
_LOCK = "lock"
_NUMBERS = TypeAdapter(
    Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_VERSION)], ...], Field(max_length=MAX_VERSION)]
)

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class BankInUse:
    """What judges: the version's number, 0 for the bundle's own bank, the rows [M, D + 1] and the anomaly limit."""

    version: int
    rows: NDArray[np.float32]
    limit: ScoreLimit


@dataclass(frozen=True)
class Standing:
    """The version in use, None for the bundle's own bank, and why others before it in the list are not."""

    delta: BankDelta | None
    refused: tuple[str, ...]


class BankStore:
    """The versions for one bundle below `state_dir`; those for other bundles are not looked at.

    Raises:
        ProcunitError: the bundle compares with no good parts.
    """

    def __init__(self, state_dir: Path, bundle: Bundle, keys: tuple[TrustedKey, ...]) -> None:
        if bundle.manifest.anomaly is None:
            raise ProcunitError(
                "the bundle has no anomaly score, so its memory bank judges nothing",
                where=str(bundle.path),
                remedy="Train with held-out good parts first",
            )
        self._folder = state_dir / BANK_FOLDER / bundle.bundle_id
        self._bundle = bundle
        self._keys = keys
        self.own_limit = bundle.manifest.anomaly

    def stamp(self) -> Stamp:
        """Another value whenever another version may be in use, None without a list; cheap."""
        try:
            stat = (self._folder / IN_USE).stat()
        except FileNotFoundError:
            return None
        except OSError:
            return 0, 0, 0
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def numbers(self) -> tuple[int, ...]:
        """The versions that led to the one in use, which comes last; empty for the bundle's own bank.

        Raises:
            ProcunitError: the list cannot be read, or is damaged.
        """
        if self.stamp() is None:
            return ()
        path = self._folder / IN_USE
        try:
            return _NUMBERS.validate_json(read_small(path))
        except ValidationError as error:
            raise ProcunitError(
                first_problem(error), where=str(path), remedy="Remove the file: the bundle's own bank is used then"
            ) from error

    def standing(self) -> Standing:
        """The last version of the list that can be used, else the bundle's own bank."""
        refused: list[str] = []
        try:
            numbers = self.numbers()
        except ProcunitError as error:
            return Standing(None, (str(error),))
        for number in reversed(numbers):
            try:
                return Standing(self.version(number), tuple(refused))
            except ProcunitError as error:
                refused.append(f"version {number}: {error}")
        return Standing(None, tuple(refused))

    def version(self, number: int) -> BankDelta:
        """A version, verified whole and held to the bundle's stored defects.

        Raises:
            ProcunitError: it may not judge.
        """
        folder, base = self._folder / _name(number), self._bundle.bank()
        delta = delta_from_directory(folder, number, self._bundle, base, self._keys)
        refuse_missed(evidence_from_bundle(self._bundle).defects, (own_bank(base, self.own_limit),), delta.bank)
        return delta

    def in_use(self, standing: Standing) -> BankInUse:
        """What the inspection needs of it."""
        if standing.delta is None:
            return BankInUse(0, self._bundle.bank(), self.own_limit)
        return BankInUse(standing.delta.record.version, standing.delta.bank.rows, standing.delta.bank.limit)

    def add(self, bank: GrownBank, key: SigningKey, sources: tuple[Source, ...], made_by: str) -> int:
        """Keep a version and put it in use, each whole on the disk or not at all; returns its number.

        Raises:
            ProcunitError: there are too many versions, the disk does not take it, or no key would verify it.
        """
        numbers = self.numbers()
        number = max((int(path.name) for path in self._folder.glob("[0-9]" * 4)), default=0) + 1
        folder = self._folder / _name(number)
        try:
            with new_directory(folder, replace=False) as partial:
                write_delta(
                    partial,
                    bank,
                    key,
                    bundle_id=self._bundle.bundle_id,
                    version=number,
                    sources=sources,
                    made_at_utc=utc_now(),
                    made_by=made_by,
                )
        except OSError as error:
            raise _not_stored(folder, error) from error
        self.version(number)
        self._put_in_use((*numbers, number))
        return number

    def undo(self) -> int:
        """Put the version before the one in use in its place; returns its number, 0 for the bundle's own bank.

        Raises:
            ProcunitError: the bundle's own bank is in use already, or the disk does not take it.
        """
        numbers = self.numbers()
        if not numbers:
            raise ProcunitError("the bundle's own bank is in use: there is nothing to undo", where=str(self._folder))
        self._put_in_use(numbers[:-1])
        return numbers[-2] if len(numbers) > 1 else 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands from changing the bank meanwhile.

        Raises:
            ProcunitError: another one is at it, or the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / _LOCK).open("ab")
        except OSError as error:
            raise _not_stored(self._folder, error) from error
        with lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ProcunitError(
                    "another `procunit bank` is at work on this bank", where=str(self._folder), remedy="Wait for it"
                ) from error
            yield

    def _put_in_use(self, numbers: tuple[int, ...]) -> None:
        path = self._folder / IN_USE
        try:
            write_whole(path, _NUMBERS.dump_json(numbers))
        except OSError as error:
            raise _not_stored(path, error) from error


def _not_stored(path: Path, error: OSError) -> ProcunitError:
    return ProcunitError(
        f"the bank cannot be stored: {error.strerror}",
        where=str(path),
        remedy="Check the disk, and run the command as the user of the daemon",
    )


def _name(number: int) -> str:
    return f"{number:04d}"
