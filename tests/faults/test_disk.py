"""A full disk under the real outbox and the real daemon; needs root, for a disk of one's own."""

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

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk to fill")


@contextmanager
def disk_of(size_mb: int, folder: Path) -> Iterator[Path]:
    """A disk in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB: always nearly full, so that the outbox has neither filler nor room to grow."""
    with disk_of(40, tmp_path / "disk") as disk:
        yield disk


def fill(folder: Path) -> None:
    """Take every byte."""
    with (folder / "stuffing").open("ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return


def put_result(outbox: Outbox, seq: int) -> bool:
    """One trigger with its result; whether it is on the disk."""
    outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0, None))
    outbox.close_trigger(seq, bytes(500))
    return outbox.flush(2)


def test_a_full_disk_is_opened_with_the_room_of_the_ballast(small_disk: Path) -> None:
    path = small_disk / "outbox.db"
    with Outbox(path) as outbox:
        assert put_result(outbox, 1)
        outbox.acknowledge([1])
        assert outbox.flush(2)
    for seq in (2, 3):
        fill(small_disk)
        with Outbox(path) as outbox:
            assert "0 MB are free" in str(outbox.shortage)
            fill(small_disk)
            assert put_result(outbox, seq)
            outbox.acknowledge([seq])
            assert outbox.flush(2)
            assert outbox.error is None


def test_the_log_s_index_has_its_room_before_the_disk_is_full(small_disk: Path) -> None:
    path = small_disk / "outbox.db"
    with Outbox(path):
        index = path.with_name("outbox.db-shm").stat()
        assert index.st_blocks * 512 >= 128 << 10  # a page in memory without a block on the disk is a SIGBUS
    assert not path.with_name("outbox.db-shm").exists()


def test_a_disk_that_fills_up_under_the_filler_does_not_stop_the_log_from_being_folded(tmp_path: Path) -> None:
    with disk_of(160, tmp_path / "disk") as disk:
        database = open_database(disk / "outbox.db")
        room = DiskSpace(database.path, database.writer, database.database_file)
        database.writer.set_trace_callback(lambda sql: fill(disk) if "wal_checkpoint" in sql else None)
        room.tend()
        assert database.writer.execute("SELECT COUNT(*) FROM filler").fetchone() == (1,)
        _, logged, folded = database.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert folded == logged
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


def test_inspection_and_results_go_on_while_the_disk_is_full_and_after_a_start_on_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.drills.disk", "--parts", "200"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 results of 200 parts, 0 missing" in done.stdout
