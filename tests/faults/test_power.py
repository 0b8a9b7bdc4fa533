"""Power cuts during writes: committed data is there at the next start; needs root, to cut off a disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk to cut off")
def test_a_power_cut_loses_nothing_that_was_committed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.drills.power", "--cycles", "5"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results promised, 0 lost" in done.stdout
