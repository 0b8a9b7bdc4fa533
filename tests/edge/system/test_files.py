"""Bounded reads: only plain files, only up to the limit, and the error names it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import ProcunitError
from edge.system.files import bytes_from_file

REPOSITORY = Path(__file__).parents[3]


def test_a_file_up_to_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2048))
    assert len(bytes_from_file(file, 2048)) == 2048
    with pytest.raises(ProcunitError, match="larger than 1 KB, the most that is read") as caught:
        bytes_from_file(file, 2047)
    assert caught.value.where == str(file)


def test_a_pipe_a_device_a_folder_and_a_missing_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ProcunitError, match="not a plain file"):
            bytes_from_file(path, 10)
    for path, why in (
        (tmp_path, "a plain file|directory"),
        (tmp_path / "absent", "No such file"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(ProcunitError, match=why):
            bytes_from_file(path, 10)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["bundle", "verify", "{folder}", "--trust", "{huge}"], ""),
        (["bundle", "show", "{folder}"], "manifest.json"),
        (["bundle", "verify", "{folder}", "--trust", "{key}"], "manifest.sig"),
        (["check-config", "{huge}"], ""),
        (["command", "sign", "identify", "--key", "{huge}", "--root", "a/b", "--config", "{huge}"], ""),
        (["label", "{huge}", "--config", "{huge}"], ""),
    ],
)
def test_no_command_reads_a_file_of_gigabytes_before_it_looks_at_its_size(
    tmp_path: Path, command: list[str], file: str
) -> None:
    huge = tmp_path / "bundle" / (file or "huge")
    huge.parent.mkdir()
    with huge.open("wb") as stream:
        stream.truncate(8 << 30)  # a hole: it takes no space on the disk
    if file == "manifest.sig":
        (tmp_path / "bundle/manifest.json").write_bytes(b"{}")
    key = tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key.pem"], check=True)
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", key], check=True)
    names = {"folder": huge.parent, "huge": huge, "key": key}
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli.main", *(part.format(**names) for part in command)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "larger than" in done.stderr or "Usage" in done.stderr
