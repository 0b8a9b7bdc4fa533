"""File locks: held by another process, or refused by the kernel as on a file system without locks."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.system.file_lock import try_lock

REPOSITORY = Path(__file__).parents[3]
OUTBOX = "from edge.outbox.outbox import Outbox\nwith Outbox(Path(sys.argv[1]) / 'outbox.db'): pass"
ENGINES = "from edge.engine.cache import EngineCache\nwith EngineCache(Path(sys.argv[1])).locked(lambda _: True): pass"
LOCK = (
    "import fcntl; from edge.system.file_lock import try_lock; file = Path(sys.argv[1], 'x').open('w')\n"
    "print(try_lock(file.fileno(), Path('x'), fcntl.{}))"
)


def run(program: str, folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a program that gets the folder, in a process of its own."""
    command = [*before, sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{program}", str(folder)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_a_lock_that_another_process_holds(lock: Callable[[int, int], None], tmp_path: Path) -> None:
    program = LOCK.format(lock.__name__)
    with (tmp_path / "x").open("w") as file:
        assert try_lock(file.fileno(), tmp_path / "x", lock)
        assert run(program, tmp_path).stdout == "False\n"
    assert run(program, tmp_path).stdout == "True\n"


@pytest.mark.parametrize(
    ("number", "text"), [("ENOLCK", "No locks available"), ("EOPNOTSUPP", "Operation not supported")]
)
@pytest.mark.parametrize("program", [OUTBOX, ENGINES], ids=["outbox", "engines"])
def test_a_file_system_without_locks_is_called_so(program: str, number: str, text: str, tmp_path: Path) -> None:
    done = run(program, tmp_path, sys.executable, "-m", "tests.support.without_locks", number)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"the file system cannot lock files: {text}" in last
    assert "Use a folder on a local disk" in last
    assert "another process uses" not in last
    assert run(program, tmp_path).returncode == 0
