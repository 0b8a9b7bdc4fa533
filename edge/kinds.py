"""Kinds of cameras and outputs: each is a class that a package brings along behind an entry point."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from edge.errors import ProcunitError

KindT = TypeVar("KindT")


@dataclass(frozen=True)
class Kinds(Generic[KindT]):
    """The installed kinds of one sort; `noun` says what they are in sentences, `group` names the entry points."""

    noun: str
    group: str

    def names(self) -> tuple[str, ...]:
        """The names of the installed kinds, sorted."""
        return tuple(sorted(self._entry_points()))

    def load(self, kind: str) -> KindT:
        """The class of a kind.

        Raises:
            ProcunitError: the kind does not exist, or a package that it needs is not installed.
        """
        entry_point = self._entry_points().get(kind)
        if entry_point is None:
            raise ProcunitError(f"no {self.noun} kind {kind!r}", remedy=self.remedy())
        try:
            found: KindT = entry_point.load()
        except ImportError as error:
            raise ProcunitError(
                f"the {self.noun} kind {kind!r} cannot be loaded: {error}",
                remedy=f"Install the package that this {self.noun} needs",
            ) from error
        return found

    def remedy(self) -> str:
        """What to do if a kind is missing or unknown."""
        return f"Installed kinds: {', '.join(self.names()) or 'none'}"

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}
