"""Finds all descendant processes of a test by a mark in their environment, even if they changed session."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return once the condition holds; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)
