"""A test double of an output: remembers the parts, and fails or hangs on demand.

It is found as that of another package would be, through the entry-point group `procunit.outputs`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from edge.outputs.output import OutputError, OutputSettings
from edge.verdict_sink import FinishedPart
from tests.support.installed_kind import install_kind


class ScriptedOutputSettings(OutputSettings):
    """The `outputs` section for `kind: scripted`; parts are counted from 1."""

    kind: Literal["scripted"] = Field(title="Kind", description="An output for tests")
    fails_at: tuple[int, ...] = Field(default=(), title="Fails at", description="Parts that it refuses")
    hangs_at: int = Field(default=0, title="Hangs at", description="The part from which it does not return")


class ScriptedOutput:
    """Remembers the parts that all openings of this process got, with the thread that called."""

    settings_model: ClassVar[type[ScriptedOutputSettings]] = ScriptedOutputSettings
    parts: ClassVar[list[FinishedPart]] = []
    threads: ClassVar[set[str]] = set()
    closed: ClassVar[threading.Event] = threading.Event()
    released: ClassVar[threading.Event] = threading.Event()

    def __init__(self, settings: ScriptedOutputSettings) -> None:
        self._settings = settings

    def deliver(self, part: FinishedPart) -> None:
        """Remember the part, unless the script says otherwise."""
        self.parts.append(part)
        self.threads.add(threading.current_thread().name)
        if len(self.parts) == self._settings.hangs_at:
            self.released.wait()
        if len(self.parts) in self._settings.fails_at:
            raise OutputError("the gate does not answer")

    def close(self) -> None:
        """Remember that it was closed, and by which thread."""
        self.threads.add(threading.current_thread().name)
        self.closed.set()


def install(folder: Path) -> None:
    """Register the output as an installed package would; `folder` must be on the import path."""
    install_kind(folder, "procunit.outputs", "scripted", ScriptedOutput)
    ScriptedOutput.parts.clear()
    ScriptedOutput.threads.clear()
    ScriptedOutput.closed.clear()
    ScriptedOutput.released.clear()
