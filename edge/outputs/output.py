"""What an output is. A kind of output is a class registered in the entry-point group `procunit.outputs`."""

from __future__ import annotations

from typing import ClassVar, Protocol

from pydantic import Field

from edge.kinds import Kinds
from edge.settings_section import Section
from edge.verdict_sink import FinishedPart


class OutputSettings(Section):
    """Settings common to all kinds of output; each kind adds its keys."""

    kind: str = Field(title="Kind", description="Kind of output, one of the installed kinds")


class OutputError(Exception):
    """The output did not do what it should; the text says what a person has to look at."""


class Output(Protocol):
    """Acts on parts; one thread owns it."""

    def deliver(self, part: FinishedPart) -> None:
        """Act on a part at the line, within a second or two.

        Raises:
            OutputError: it cannot; the next part is tried again.
        """
        ...

    def close(self) -> None:
        """Go to the safe state and release everything."""
        ...


class OutputType(Protocol):
    """A kind of output: its settings and how it is made."""

    settings_model: ClassVar[type[OutputSettings]]

    def __call__(self, settings: OutputSettings) -> Output:
        """Make the output once, before the first part; it connects when it has something to do.

        Raises:
            ProcunitError: it cannot work with these settings.
        """
        ...


OUTPUTS: Kinds[OutputType] = Kinds("output", "procunit.outputs")
"""The installed kinds of output."""
