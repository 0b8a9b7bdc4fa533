"""Who else may change a file: modes, owners, the folders above, sticky folders, read-only file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.system.access import who_may_change

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away or mount")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    (folder / "line.yaml").write_text("device: 1")
    (folder / "line.yaml").chmod(0o644)
    return folder / "line.yaml"


def run_the_command(problem: str) -> None:
    """Do what the text says."""
    subprocess.run(problem.rpartition("Run: ")[2].split(), check=True)


def test_a_file_of_this_user_is_nobody_elses(file: Path) -> None:
    assert who_may_change(file) is None
    file.chmod(0o600)
    assert who_may_change(file) is None
    assert who_may_change(file.with_name("absent.yaml")) is None


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda file: file.chmod(0o646), "every user may write to {file}. Run: chmod o-w {file}"),
        (lambda file: file.parent.chmod(0o757), "every user may write to {folder}. Run: chmod o-w {folder}"),
    ],
)
def test_what_everybody_may_write_is_named_with_the_command(
    file: Path, spoil: Callable[[Path], object], text: str
) -> None:
    spoil(file)
    problem = who_may_change(file)
    assert problem == text.format(file=file, folder=file.parent)
    run_the_command(problem)
    assert who_may_change(file) is None


def test_a_folder_in_which_only_the_owner_may_rename_is_as_good_as_closed(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert who_may_change(file) is None
    assert who_may_change(file.parent) is None


def test_the_private_group_of_this_user_is_this_user(file: Path) -> None:
    """Some distributions give each user a group of the same name and the umask 002."""
    file.chmod(0o664)
    assert file.stat().st_gid == os.getegid()
    assert who_may_change(file) is None


def _group_writable(file: Path) -> None:
    os.chown(file, 0, NOBODY)
    file.chmod(0o664)


@needs_root
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda file: os.chown(file, NOBODY, 0), "{file} belongs to nobody. Run: chown root {file}"),
        (lambda file: os.chown(file.parent, NOBODY, 0), "{folder} belongs to nobody. Run: chown root {folder}"),
        (_group_writable, "the group nogroup may write to {file}. Run: chmod g-w {file}"),
    ],
)
def test_another_owner_and_another_group_are_named_with_the_command(
    file: Path, spoil: Callable[[Path], object], text: str
) -> None:
    spoil(file)
    problem = who_may_change(file)
    assert problem == text.format(file=file, folder=file.parent)
    run_the_command(problem)
    assert who_may_change(file) is None


def test_the_file_behind_a_link_counts(file: Path, tmp_path: Path) -> None:
    (tmp_path / "current.yaml").symlink_to(file)
    assert who_may_change(tmp_path / "current.yaml") is None
    file.chmod(0o666)
    assert f"chmod o-w {file}" in str(who_may_change(tmp_path / "current.yaml"))


@needs_root
def test_on_a_read_only_file_system_nobody_may_change_anything(file: Path, tmp_path: Path) -> None:
    """A bundle on a read-only image whose modes say nothing."""
    file.chmod(0o666)
    target = tmp_path / "mounted"
    target.mkdir()
    done = subprocess.run(["mount", "--bind", file.parent, target], check=False)
    if done.returncode:
        pytest.skip("this machine does not let root mount")
    try:
        assert who_may_change(target / "line.yaml") is not None
        subprocess.run(["mount", "-o", "remount,ro,bind", target], check=True)
        assert who_may_change(target / "line.yaml") is None
    finally:
        subprocess.run(["umount", target], check=True)
