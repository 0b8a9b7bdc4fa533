"""Engines on the disk: complete and unchanged, or removed and reported."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.engine import cache as engine_cache
from edge.engine.build_progress import BuildCancelledError
from edge.engine.cache import KEPT_ENGINES, EngineCache
from edge.engine.key import EngineKey
from edge.errors import ProcunitError

KEY = EngineKey("TensorRT", "10.3.0", "Orin", "8.7", ("ab" * 32, "cd" * 32), 1, "level 3")
NOBODY = 65534
PLANS = (b"classifier" * 100, b"extractor" * 100)


class Kept:
    """A cache in a folder, and the damage that it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reported: list[str] = []
        self.cache = EngineCache(folder, self.reported.append)

    @property
    def names(self) -> list[str]:
        """Everything in the folder, the lock excepted."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != "lock")


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    kept = Kept(tmp_path / "engines")
    kept.cache.store(KEY, PLANS)
    return kept


def edit_sidecar(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "engine.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_stored_engine_is_found_by_its_exact_key_only(kept: Kept) -> None:
    found = kept.cache.find(KEY)
    assert found is not None
    assert tuple(plan.read_bytes() for plan in found.plans) == PLANS
    assert kept.cache.find(replace(KEY, library_version="10.16.1")) is None
    assert kept.reported == []
    assert kept.names == [KEY.name]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: os.truncate(folder / "engine-1.plan", 17), "17 bytes long instead of 900"),
        (lambda folder: (folder / "engine-0.plan").write_bytes(b"x" * 1000), "sha256 differs"),
        (lambda folder: (folder / "engine-0.plan").unlink(), "No such file"),
        (lambda folder: (folder / "engine.json").unlink(), "No such file"),
        (lambda folder: (folder / "engine.json").write_text("{"), "engine.json"),
        (lambda folder: (folder / "engine.json").write_text(" " * 20_000), "larger than"),
        (lambda folder: edit_sidecar(folder, lambda r: r["plans"].pop()), "1 plans for 2 graphs"),
        (lambda folder: edit_sidecar(folder, lambda r: r["key"].update(library_version="10.16.1")), "library_version"),
        (lambda folder: edit_sidecar(folder, lambda r: r.update(pickle="gASV")), "pickle"),
    ],
    ids=["truncated", "changed", "missing", "no sidecar", "no JSON", "huge", "half", "foreign", "unknown key"],
)
def test_a_damaged_engine_is_removed_and_reported(kept: Kept, damage: Callable[[Path], object], text: str) -> None:
    damage(kept.folder / KEY.name)
    assert kept.cache.find(KEY) is None
    assert len(kept.reported) == 1
    assert text in kept.reported[0]
    assert kept.names == []
    assert kept.cache.find(KEY) is None
    assert len(kept.reported) == 1


def test_the_most_recently_used_engines_are_kept(kept: Kept) -> None:
    keys = [replace(KEY, tiles=tiles) for tiles in range(2, 2 + KEPT_ENGINES)]
    for age, key in enumerate([KEY, *keys[:-1]]):
        kept.cache.store(key, PLANS)
        os.utime(kept.folder / key.name, (age, age))
    kept.cache.find(KEY)
    kept.cache.store(keys[-1], PLANS)
    assert kept.names == sorted(key.name for key in (KEY, *keys[1:]))


@pytest.mark.parametrize("step_s", [-9 * 86_400, -50 * 365 * 86_400, 9 * 86_400])
def test_after_a_step_of_the_clock_the_engine_just_stored_or_used_is_kept(kept: Kept, step_s: float) -> None:
    """The other engines carry times of a clock that was `step_s` away from the one now."""
    keys = [replace(KEY, tiles=tiles) for tiles in range(2, 2 + KEPT_ENGINES)]
    for key in keys[:-1]:
        kept.cache.store(key, PLANS)
    for age, name in enumerate([KEY.name, *(key.name for key in keys[:-1])]):
        stepped_s = time.time() - step_s + age
        os.utime(kept.folder / name, (stepped_s, stepped_s))
    assert kept.cache.find(KEY) is not None
    kept.cache.store(keys[-1], PLANS)
    assert kept.names == sorted(key.name for key in (KEY, *keys[1:]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_may_only_read_the_cache_finds_its_engines() -> None:
    with tempfile.TemporaryDirectory() as folder:  # unlike pytest's, others may look into it
        kept = Kept(Path(folder) / "engines")
        kept.cache.store(KEY, PLANS)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        os.seteuid(NOBODY)
        try:
            found = kept.cache.find(KEY)
        finally:
            os.seteuid(0)
        assert found is not None
        assert kept.reported == []


def test_a_full_disk_is_reported_and_left_clean(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        with pytest.raises(ProcunitError, match=r"No space left on device.*Free space"):
            kept.cache.store(KEY, (b"new", b"new"))
    found = kept.cache.find(KEY)
    assert found is not None
    assert found.plans[0].read_bytes() == PLANS[0]
    assert kept.names == [KEY.name]


def test_one_process_builds_at_a_time_and_files_of_killed_builds_are_removed(kept: Kept) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    with kept.cache.locked(wait):
        (kept.folder / ".feed.partial").mkdir()
        (kept.folder / ".feed.partial" / "engine-0.plan").write_bytes(b"half")
        (kept.folder / ".timing-1.cache.partial").write_bytes(b"half")
        kept.cache.clear_partials()
        assert len(kept.names) == 3
        with pytest.raises(BuildCancelledError), Kept(kept.folder).cache.locked(wait):
            pass
    assert waits == [engine_cache._POLL_S] * 3
    with kept.cache.locked(wait):
        assert kept.names == [KEY.name]


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ProcunitError, match="--cache"),
        EngineCache(tmp_path / "file" / "engines").locked(lambda _: True),
    ):
        pass


def test_kernel_times_are_stored_per_device(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.cache.store_timing(KEY, b"times")
    assert kept.cache.timing(replace(KEY, tiles=9)) == b"times"
    assert kept.cache.timing(replace(KEY, gpu="Thor")) == b""
    (timing,) = kept.folder.glob("timing-*")
    timing.write_bytes(timing.read_bytes()[:-1])
    assert kept.cache.timing(KEY) == b""
    assert "damaged" in caplog.text
    timing.unlink()
    timing.mkdir()
    assert kept.cache.timing(KEY) == b""
    kept.cache.store_timing(KEY, b"times")
    assert "cannot be written" in caplog.text
