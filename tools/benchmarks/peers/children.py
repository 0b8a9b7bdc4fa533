"""Starts each side in a process of its own: ours in this environment, anomalib's in its own.

That is `.venv-peers`, or what `PROCUNIT_PEERS_PYTHON` names: the interpreter of any environment that has anomalib, this
one if it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edge.errors import ProcunitError

ROOT = Path(__file__).resolve().parents[3]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_NAMED = "PROCUNIT_PEERS_PYTHON"

Side = Literal["ours", "anomalib"]
_PROGRESS = {"TQDM_MININTERVAL": "10"}


def run_side(side: Side, module: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a module of this package to its end; returns what it printed, its progress goes to the terminal.

    `environment` is added to this process's own.

    Raises:
        ProcunitError: anomalib's environment is missing, or the module failed.
    """
    python = Path(sys.executable) if side == "ours" else Path(os.environ.get(_NAMED) or PEERS_PYTHON)
    if not python.exists():
        raise ProcunitError(
            "anomalib's environment is missing",
            where=str(python),
            remedy=f"Run `make bench-peers`, which makes it, or name its interpreter in {_NAMED}",
        )
    command = [str(python), "-W", "ignore", "-m", f"tools.benchmarks.peers.{module}", *map(str, arguments)]
    variables = {**os.environ, **_PROGRESS, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ProcunitError(
            f"{module} of the side {side} ended with {done.returncode}",
            remedy="What it said stands above; nothing was measured",
        )
    return done.stdout
