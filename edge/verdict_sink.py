"""Where verdicts go: the outbox, the frame store, and whatever else acts on a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.contract.payloads import Result
from edge.messages import Inspection
from edge.recipe import Recipe


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part with its verdict, the recipe that judged it, and its result message, also as the bytes `payload`.

    A `snapshot` was asked for: its frames are published whatever the verdict.
    """

    inspection: Inspection
    recipe: Recipe
    result: Result
    payload: bytes
    snapshot: bool


class VerdictSink(Protocol):
    """Takes every finished part; its own thread does the work, from a bounded queue and within a deadline."""

    def put(self, part: FinishedPart) -> None:
        """Take a part; returns at once. A sink that has no room drops the part and has a problem (`Worker.problems`).

        Raises:
            OutboxEndedError: no verdict can be stored any more, so that no part may be inspected.
        """
        ...
