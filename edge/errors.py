"""`ProcunitError`, the exception whose text is meant for people, and the text of a validation error."""

from __future__ import annotations

from pydantic import ValidationError

from edge.plain_text import plain


class ProcunitError(Exception):
    """A problem that a person can solve: what happened, where (file, line, key), and what to do (remedy).

    The command line prints it without a traceback and exits with code 2. Its text is one line without control
    characters, whatever the names in it (`edge/plain_text.py`).
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return plain(f"{text}. {self.remedy}" if self.remedy else text)


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation error in one phrase: the key and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
    return f"key {key}: {first['msg'].removeprefix('Value error, ')}"
