"""Finds the processes that descend from a test, wherever they moved: by a mark in their environment."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
MARK = "PROCUNIT_TEST_MARK"


def new_mark() -> str:
    """A value for `MARK` in the environment, which every descendant inherits."""
    return uuid4().hex


def alive_with_mark(mark: str) -> list[str]:
    """The command lines of living processes that were started with this mark, zombies excepted."""
    variable = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and variable in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
