"""The one exception whose text is meant for a person, and how a file's problem is put into words."""

from __future__ import annotations

from pydantic import ValidationError


class ProcunitError(Exception):
    """A problem a person can act on: what happened, where, and what to do about it.

    The command line prints it without a traceback and exits with 2.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


def first_problem(error: ValidationError) -> str:
    """The first of a file's problems in one phrase: its key and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
    return f"key {key}: {first['msg']}"
