"""Starts each side in a separate process: ours in this environment, anomalib in its own.

That is `.venv-peers`, or `PROCUNIT_PEERS_PYTHON`: the interpreter of any environment with anomalib.
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
_PYTHON_VARIABLE = "PROCUNIT_PEERS_PYTHON"

Side = Literal["ours", "anomalib"]
_PROGRESS = {"TQDM_MININTERVAL": "10"}


def run_side(side: Side, module: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a module of this package to its end; returns its stdout, while its progress goes to the terminal.

    `environment` is added to this process's own.

    Raises:
        ProcunitError: anomalib's environment is missing, or the module failed.
    """
    python = Path(sys.executable) if side == "ours" else Path(os.environ.get(_PYTHON_VARIABLE) or PEERS_PYTHON)
    if not python.exists():
        raise ProcunitError(
            "the Python environment of anomalib does not exist",
            where=str(python),
            remedy=f"Run `make bench-peers`, which creates it, or set {_PYTHON_VARIABLE} to its interpreter",
        )
    command = [str(python), "-W", "ignore", "-m", f"tools.benchmarks.peers.{module}", *map(str, arguments)]
    variables = {**os.environ, **_PROGRESS, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ProcunitError(
            f"{module} of the side {side} failed with exit status {done.returncode}",
            remedy="See its output above; nothing was measured",
        )
    return done.stdout
