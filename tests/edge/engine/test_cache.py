"""Engines on the disk: complete and unchanged, or removed and reported."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
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
        """Everything in the folder, the lock and the secret excepted."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("lock", "secret"))


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
        secret = kept.folder / "secret"
        secret.chmod(0o600)
        os.chown(secret, NOBODY, -1)
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


def exchange(folder: Path, plan: bytes) -> None:
    """Exchange the first plan and make size and hash in the record fit, as whoever may write here can."""
    (folder / "engine-0.plan").write_bytes(plan)
    entry = {"sha256": hashlib.sha256(plan).hexdigest(), "size_bytes": len(plan)}
    edit_sidecar(folder, lambda record: record["plans"].__setitem__(0, entry))


def copied_from_another_device(folder: Path) -> None:
    other = Kept(folder.parent.with_name("other"))
    other.cache.store(KEY, PLANS)
    shutil.rmtree(folder)
    shutil.copytree(other.folder / KEY.name, folder)


@pytest.mark.parametrize(
    "forge",
    [
        lambda folder: exchange(folder, b"another plan"),
        lambda folder: edit_sidecar(folder, lambda record: record.pop("mark")),
        lambda folder: edit_sidecar(folder, lambda record: record.update(mark="0" * 64)),
        lambda folder: edit_sidecar(folder, lambda record: record["plans"].reverse()),
        copied_from_another_device,
    ],
    ids=["exchanged", "of an earlier version", "guessed", "two plans exchanged", "of another device"],
)
def test_an_engine_that_this_device_has_not_built_is_removed_and_reported(
    kept: Kept, forge: Callable[[Path], object]
) -> None:
    assert kept.cache.find(KEY) is not None
    forge(kept.folder / KEY.name)
    assert kept.cache.find(KEY) is None
    (problem,) = kept.reported
    assert "has no mark of this device: it was exchanged, or built before engines were marked" in problem
    assert kept.names == []


def test_a_plan_exchanged_after_it_was_found_is_not_loaded(kept: Kept) -> None:
    found = kept.cache.find(KEY)
    assert found is not None
    exchange(kept.folder / KEY.name, b"classifiex" * 100)
    with pytest.raises(ProcunitError, match="sha256 differs"):
        found.plans[0].read_bytes()


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(kept: Kept) -> None:
    secret = kept.folder / "secret"
    first = secret.read_bytes()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(first) == 32
    kept.cache.store(replace(KEY, tiles=2), PLANS)
    kept.cache.store_timing(KEY, b"times")
    assert secret.read_bytes() == first
    assert Kept(kept.folder).cache.find(KEY) is not None


def _linked(secret: Path) -> None:
    secret.rename(secret.with_name("elsewhere"))
    secret.symlink_to(secret.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda secret: secret.chmod(0o640), r"others may read it \(mode 640, 1 names\)"),
        (lambda secret: secret.chmod(0o604), r"others may read it \(mode 604, 1 names\)"),
        (lambda secret: os.link(secret, secret.with_name("kept")), r"others may read it \(mode 600, 2 names\)"),
        (_linked, "not a plain file"),
        (lambda secret: os.truncate(secret, 31), "31 bytes long instead of 32"),
        (lambda secret: os.chown(secret, 65534, 65534), r"another user \(uid 65534\)"),
    ],
    ids=["group", "everybody", "second name", "link", "short", "of another user"],
)
def test_a_secret_that_others_may_know_is_replaced_and_engines_are_built_again(
    kept: Kept, spoil: Callable[[Path], object], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = kept.folder / "secret"
    before = secret.read_bytes()
    try:
        spoil(secret)
    except PermissionError:
        pytest.skip("only root can give a file away")
    assert kept.cache.find(KEY) is None
    assert re.search(problem, caplog.text)
    assert len(kept.reported) == 1
    kept.cache.store(KEY, PLANS)
    assert kept.cache.find(KEY) is not None
    assert secret.read_bytes() != before
    assert (secret.is_symlink(), stat.S_IMODE(secret.stat().st_mode), secret.stat().st_nlink) == (False, 0o600, 1)


def test_kernel_times_of_another_device_are_ignored(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.cache.store_timing(KEY, b"times")
    (timing,) = kept.folder.glob("timing-*")
    whole = timing.read_bytes()
    timing.write_bytes(hashlib.sha256(b"other").digest() + b"other")
    assert kept.cache.timing(KEY) == b""
    assert "not of this device" in caplog.text
    other_device = replace(KEY, gpu="Thor")
    (kept.folder / f"timing-{other_device.device_name}.cache").write_bytes(whole)
    assert kept.cache.timing(other_device) == b""
    timing.write_bytes(whole)
    assert kept.cache.timing(KEY) == b"times"
