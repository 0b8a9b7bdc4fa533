"""Test doubles of `procunit engine build`: small programs that print given lines and then run a statement."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PROGRESS = '{"phase": "model: Timing graph nodes", "step": 3, "steps": 7, "fraction": 0.25, "seconds": 1.5}'
RESULT = '{"result": "engines/k", "cached": false, "size_bytes": 7, "seconds": 2.0}'
FAILURE = '{"error": "TensorRT ran out of memory", "where": "model.onnx", "remedy": "Add swap"}'
HANGS = "import time; time.sleep(60)"


def replace_child(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str, then: str = "") -> Path:
    """Replace the build by a program that prints these lines, then runs `then`; returns the file with its pid."""
    pid = folder / "child.pid"
    program = folder / "child.py"
    program.write_text(
        f"import os, signal, sys\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        f"for line in {lines!r}:\n    print(line, flush=True)\n{then}\n"
    )
    monkeypatch.setattr("edge.engine.build_child.PROCUNIT", (sys.executable, "-S", str(program)))
    return pid


def is_running(pid: Path) -> bool:
    """True if the process whose id is in the file still runs."""
    return Path(f"/proc/{pid.read_text()}").exists()
