"""The real outbox and the real daemon on a full disk; needs root, to mount a disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.errors import ProcunitError
from edge.messages import Trigger
from edge.outbox.database import open_database
from edge.outbox.disk_space import BALLAST_BYTES, DiskSpace
from edge.outbox.outbox import Outbox
from edge.outbox.running_time import RunningTime

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk to fill")


@contextmanager
def disk_of(size_mb: int, folder: Path) -> Iterator[Path]:
    """Mount a disk in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB: always nearly full, so that the outbox has neither filler nor space to grow."""
    with disk_of(40, tmp_path / "disk") as disk:
        yield disk


def fill(folder: Path) -> None:
    """Fill the disk completely."""
    with (folder / "stuffing").open("ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return


def put_result(outbox: Outbox, seq: int) -> bool:
    """Store one trigger with its result; True if it got to the disk."""
    outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
    outbox.close_trigger(seq, bytes(500))
    return outbox.flush(2)


def test_on_a_full_disk_the_outbox_opens_with_the_space_of_the_ballast(small_disk: Path) -> None:
    path = small_disk / "outbox.db"
    with Outbox(path) as outbox:
        assert put_result(outbox, 1)
        outbox.acknowledge([1])
        assert outbox.flush(40)
    for seq in (2, 3):
        fill(small_disk)
        with Outbox(path) as outbox:
            assert "0 MB are free" in str(outbox.shortage)
            fill(small_disk)
            assert put_result(outbox, seq)
            outbox.acknowledge([seq])
            assert outbox.flush(40)
            assert outbox.error is None


def test_the_index_of_the_log_is_allocated_before_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "outbox.db"
    with Outbox(path):
        index = path.with_name("outbox.db-shm").stat()
        assert index.st_blocks * 512 >= 128 << 10  # writing to a mapped page without a disk block raises SIGBUS
    assert not path.with_name("outbox.db-shm").exists()


def test_a_disk_that_fills_up_during_filling_does_not_prevent_a_checkpoint(tmp_path: Path) -> None:
    with disk_of(160, tmp_path / "disk") as disk:
        database = open_database(disk / "outbox.db")
        running_time = RunningTime(database.writer)
        disk_space = DiskSpace(database.path, database.writer, database.database_file, running_time)
        database.writer.set_trace_callback(lambda sql: fill(disk) if "wal_checkpoint" in sql else None)
        disk_space.tend()
        assert database.writer.execute("SELECT COUNT(*) FROM filler").fetchone() == (1,)
        _, logged, copied = database.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert copied == logged
        database.close()


def test_without_the_ballast_a_full_disk_is_a_clear_error(small_disk: Path) -> None:
    path = small_disk / "outbox.db"
    with Outbox(path) as outbox:
        assert put_result(outbox, 1)
    ballast = path.with_name("outbox.db.ballast")
    assert ballast.stat().st_size == BALLAST_BYTES
    fill(small_disk)
    ballast.unlink()
    fill(small_disk)
    with pytest.raises(ProcunitError, match="cannot open the outbox"):
        Outbox(path)
    (small_disk / "stuffing").unlink()
    with Outbox(path) as outbox:
        assert (outbox.backlog(), outbox.set_aside) == (1, None)


@pytest.mark.slow
def test_inspection_and_results_continue_on_a_full_disk_and_after_a_start_on_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.drills.disk", "--parts", "200"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 results of 200 parts, 0 missing" in done.stdout
