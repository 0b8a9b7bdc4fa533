"""What `procunit engine build --progress json` says, a JSON object a line: how far it is, and at last how it ended."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from edge.record import Record

Text = Annotated[str, Field(max_length=4000)]


class BuildCancelledError(Exception):
    """Nobody wants the engine any more."""


class BuildProgress(Record):
    """A sign of life, at least one a second: the builder's phase, its finished steps, and the share of all work."""

    phase: Text
    step: int
    steps: int
    fraction: Annotated[float, Field(ge=0, le=1)]
    seconds: float

    def __str__(self) -> str:
        return f"{self.fraction:.0%}: {self.phase} ({self.step} of {self.steps})"


class BuildResult(Record):
    """The last line of a build that succeeded: where the engine lies, and whether it was there before."""

    result: Text
    cached: bool
    size_bytes: int
    seconds: float


class BuildFailure(Record):
    """The last line of a build that failed: a `ProcunitError` on the wire."""

    error: Text
    where: Text | None
    remedy: Text | None


BuildLine = BuildProgress | BuildResult | BuildFailure
BUILD_LINE: TypeAdapter[BuildLine] = TypeAdapter(BuildLine)
"""Reads one line."""
