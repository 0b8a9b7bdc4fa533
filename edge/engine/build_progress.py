"""The output of `procunit engine build --progress json`: one JSON object per line, progress and finally the outcome."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from edge.record import Record

Text = Annotated[str, Field(max_length=4000)]


class BuildCancelledError(Exception):
    """The caller cancelled the build or the search for an engine."""


class BuildProgress(Record):
    """Progress, at least once a second: the builder's phase, its finished steps, and the share of all work done."""

    phase: Text
    step: int
    steps: int
    fraction: Annotated[float, Field(ge=0, le=1)]
    seconds: float

    def __str__(self) -> str:
        return f"{self.fraction:.0%}: {self.phase} ({self.step} of {self.steps})"


class BuildResult(Record):
    """The last line of a build that succeeded: the engine's folder, and whether it was in the cache already."""

    result: Text
    cached: bool
    size_bytes: int
    seconds: float


class BuildFailure(Record):
    """The last line of a build that failed: the fields of a `ProcunitError`."""

    error: Text
    where: Text | None
    remedy: Text | None


BuildLine = BuildProgress | BuildResult | BuildFailure
BUILD_LINE: TypeAdapter[BuildLine] = TypeAdapter(BuildLine)
"""Parses one line."""
