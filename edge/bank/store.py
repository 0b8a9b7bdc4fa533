"""The versions of a bundle's grown memory bank on this device, and which of them is in use.

`state_dir/bank/BUNDLE_ID/0001/` and so on contain the versions (`edge.bank.delta`). `in-use.json` beside them lists the
version in use, last, and those that it was grown from. Undoing removes the last entry; an empty list means the bundle's
bank. The list only selects among signed versions, so it needs no signature.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from edge.bank.delta import MAX_VERSION, BankDelta, Source, delta_from_directory, write_delta
from edge.bank.evidence import evidence_from_bundle
from edge.bank.growth import GrownBank, own_bank, refuse_missed
from edge.bundle.keys import SigningKey, TrustedKey
from edge.bundle.reader import Bundle, read_small
from edge.errors import ProcunitError, first_problem
from edge.recipe import BankInUse
from edge.state_dir import BANK_FOLDER
from edge.system.clock import utc_now
from edge.system.file_lock import try_lock
from edge.system.files import new_directory, write_whole

IN_USE = "in-use.json"
_LOCK = "lock"
_NUMBERS = TypeAdapter(
    Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_VERSION)], ...], Field(max_length=MAX_VERSION)]
)

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class UsableVersion:
    """The latest usable version, None for the bundle's bank, and why each later version was refused."""

    delta: BankDelta | None
    refused: tuple[str, ...]


class BankStore:
    """The versions for one bundle below `state_dir`; those for other bundles are ignored.

    Raises:
        ProcunitError: the bundle has no anomaly score.
    """

    def __init__(self, state_dir: Path, bundle: Bundle, keys: tuple[TrustedKey, ...]) -> None:
        if bundle.manifest.anomaly is None:
            raise ProcunitError(
                "the bundle has no anomaly score, so its memory bank is not used",
                where=str(bundle.path),
                remedy="Train with held-out good parts first",
            )
        self._folder = state_dir / BANK_FOLDER / bundle.bundle_id
        self._bundle = bundle
        self._keys = keys
        self.own_limit = bundle.manifest.anomaly

    def stamp(self) -> Stamp:
        """A value that changes when the version in use may have changed; None without a list. It costs one `stat`."""
        try:
            stat = (self._folder / IN_USE).stat()
        except FileNotFoundError:
            return None
        except OSError:
            return 0, 0, 0
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def numbers(self) -> tuple[int, ...]:
        """The version in use, last, and those that it was grown from; empty for the bundle's bank.

        Raises:
            ProcunitError: the list cannot be read or is damaged.
        """
        if self.stamp() is None:
            return ()
        path = self._folder / IN_USE
        try:
            return _NUMBERS.validate_json(read_small(path))
        except ValidationError as error:
            raise ProcunitError(
                first_problem(error), where=str(path), remedy="Remove the file: then the bundle's own bank is used"
            ) from error

    def latest_usable(self) -> UsableVersion:
        """The last version of the list that is valid, else the bundle's bank."""
        refused: list[str] = []
        try:
            numbers = self.numbers()
        except ProcunitError as error:
            return UsableVersion(None, (str(error),))
        for number in reversed(numbers):
            try:
                return UsableVersion(self.version(number), tuple(refused))
            except ProcunitError as error:
                refused.append(f"version {number}: {error}")
        return UsableVersion(None, tuple(refused))

    def version(self, number: int) -> BankDelta:
        """Read a version, verify all of it, and check that it still flags the bundle's stored defects.

        Raises:
            ProcunitError: it is damaged, not signed by a trusted key, or would miss a stored defect.
        """
        folder, base = self._folder / _name(number), self._bundle.bank()
        delta = delta_from_directory(folder, number, self._bundle, base, self._keys)
        refuse_missed(evidence_from_bundle(self._bundle).defects, (own_bank(base, self.own_limit),), delta.bank)
        return delta

    def in_use(self, usable: UsableVersion) -> BankInUse:
        """The bank of a version, or the bundle's."""
        if usable.delta is None:
            return BankInUse(0, self._bundle.bank(), self.own_limit)
        return BankInUse(usable.delta.record.version, usable.delta.bank.rows, usable.delta.bank.limit)

    def add(self, bank: GrownBank, key: SigningKey, sources: tuple[Source, ...], made_by: str) -> int:
        """Store a version, put it in use, and return its number; each step is atomic on the disk.

        Raises:
            ProcunitError: there are too many versions, the disk refuses it, or the device would refuse the version.
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
        """Return to the version before the one in use; returns its number, 0 for the bundle's bank.

        Raises:
            ProcunitError: the bundle's bank is in use already, or the disk refuses the change.
        """
        numbers = self.numbers()
        if not numbers:
            raise ProcunitError("the bundle's own bank is in use: there is nothing to undo", where=str(self._folder))
        self._put_in_use(numbers[:-1])
        return numbers[-2] if len(numbers) > 1 else 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the bank during a block.

        Raises:
            ProcunitError: another process is changing it, or the folder cannot be written or locked.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / _LOCK).open("ab")
        except OSError as error:
            raise _not_stored(self._folder, error) from error
        with lock:
            if not try_lock(lock.fileno(), self._folder / _LOCK):
                raise ProcunitError(
                    "another `procunit bank` is changing this bank",
                    where=str(self._folder),
                    remedy="Wait until it has ended",
                )
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
