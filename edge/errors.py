"""The one exception whose text is meant for a person."""

from __future__ import annotations


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
