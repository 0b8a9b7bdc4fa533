"""The frame store on a disk whose files are used up, though not its bytes; needs root, to mount a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge.messages import PinAnswer, Verdict
from tests.edge.frames.test_store import names, open_store, put
from tests.faults.test_state_disk import ext4_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk with few inodes")


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 MB that takes about 500 files."""
    with ext4_disk(tmp_path, "-N", "512") as disk:
        yield disk


def use_up_files(disk: Path, left: int) -> None:
    """Create files until the disk takes only `left` more."""
    others = disk / "others"
    others.mkdir(exist_ok=True)
    with suppress(OSError):
        while os.statvfs(disk).f_favail > left:
            (others / f"{len(list(others.iterdir()))}").touch()


@pytest.mark.parametrize("left", [20, 0])
def test_when_the_files_of_the_disk_are_used_up_a_new_reject_gets_its_picture(few_files: Path, left: int) -> None:
    folder = few_files / "frames"
    with open_store(folder) as store:
        for seq in range(1, 31):
            put(store, seq, Verdict.PASS)
        put(store, 31, Verdict.PASS, part_id="p")
        assert store.pin_part("p", "scratch") == PinAnswer(pinned=1)
        pinned = names(folder / "pinned")
        assert store.error is None
        use_up_files(few_files, left)
        for seq in range(32, 42):
            put(store, seq, Verdict.REJECT)
            assert "its inodes are used up" in str(store.error)
        assert names(folder / "unsent") == {f"abc-{seq}.reject.png" for seq in range(32, 42)}
        assert names(folder / "pinned") == pinned
        for seq in range(42, 62):
            put(store, seq, Verdict.PASS)
        assert names(folder / "unsent") == {f"abc-{seq}.reject.png" for seq in range(32, 42)}
        assert "ring/abc-61.pass.png" in names(folder)
        assert os.statvfs(few_files).f_favail >= left
        assert store.pin_result("abc-40", "scratch") == PinAnswer(pinned=1)
        assert len(names(folder / "pinned")) == 4
