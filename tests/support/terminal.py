"""A program in a real terminal, and names that try to command it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FORGED = "FORGED"
SHOWN = "ü漢[red]x"
"""What a person is shown of `HOSTILE`, whatever stands between: an umlaut, a Chinese sign, and markup as it is."""
HOSTILE = (
    f"ü漢[red]x\x1b[2J\x1b]0;title\x07\x9b31m\x85{FORGED}\u202e\u2066\u200b\ufeff\u2028{FORGED}\r\n{FORGED} [bold]"
)
"""A valid file name: escape sequences (C0 and C1), overrides of the direction, invisible characters, line breaks."""
_OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown_by(command: Sequence[str | Path], folder: Path = REPOSITORY, timeout_s: float = 20) -> tuple[int, str]:
    """Run a Python command line in a wide terminal; returns the exit status and everything that it received."""
    main_side, terminal = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": "500",
        "LINES": "30",
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    screen = bytearray()
    try:
        while True:
            try:
                screen += os.read(main_side, 65536)
            except OSError:  # the program has closed its terminal
                break
        return process.wait(timeout_s), screen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(main_side)


def assert_harmless(screen: str) -> None:
    """Fail if a hostile name did anything to the terminal; colours and the cursor of a progress bar are our own."""
    assert "\x1b[2J" not in screen
    ours = _OURS.sub("", screen)
    for character in "\x1b\x07\x9b\x85\u202e\u2066\u200b\ufeff\u2028":
        assert character not in ours, f"{character!r} in {ours!r}"
    assert [line for line in re.split(r"[\r\n]+", ours) if line.strip().startswith(FORGED)] == []
