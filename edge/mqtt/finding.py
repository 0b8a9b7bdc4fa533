"""What one step of `mqtt check` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one step; `remedy` is empty if there is nothing to do."""

    step: str
    outcome: Outcome
    detail: str
    remedy: str = ""


class Failed(Exception):  # noqa: N818  (it carries the finding that ends the check)
    """A failure that prevents all further steps."""

    def __init__(self, step: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.finding = Finding(step, "failed", detail, remedy)
