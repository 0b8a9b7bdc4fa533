"""Doubles of `procunit engine build`: programs of a few lines that say what they are told and end as they are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PROGRESS = '{"phase": "model: Timing graph nodes", "step": 3, "steps": 7, "fraction": 0.25, "seconds": 1.5}'
RESULT = '{"result": "engines/k", "cached": false, "size_bytes": 7, "seconds": 2.0}'
FAILURE = '{"error": "TensorRT ran out of memory", "where": "model.onnx", "remedy": "Add swap"}'
HANGS = "import time; time.sleep(60)"


def replace_child(monkeypatch: pytest.MonkeyPatch, folder: Path, *said: str, then: str = "") -> Path:
    """Let a program build that says these lines and then runs a statement; gives the file of its process id."""
    pid = folder / "child.pid"
    program = folder / "child.py"
    program.write_text(
        f"import os, signal, sys\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        f"for line in {said!r}:\n    print(line, flush=True)\n{then}\n"
    )
    monkeypatch.setattr("edge.engine.build_child.PROCUNIT", (sys.executable, "-S", str(program)))
    return pid


def is_running(pid: Path) -> bool:
    """Whether the process whose id is in the file is there."""
    return Path(f"/proc/{pid.read_text()}").exists()
