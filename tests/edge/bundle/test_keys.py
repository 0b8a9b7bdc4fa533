"""Which keys are demo keys, whatever they are called, and which key files are refused for their permissions."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.bank.delta import keys_for_bank
from edge.bundle.keys import (
    DEMO_MARK,
    keys_for_commands,
    signing_key_from_file,
    trusted_key_from_file,
    trusted_keys_from_files,
)
from edge.errors import ProcunitError

KEY = Ed25519PrivateKey.from_private_bytes(b"\3" * 32)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
OTHER = Ed25519PrivateKey.from_private_bytes(b"\4" * 32).public_key()
OTHER_PUBLIC = OTHER.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
TEXT = DEMO_MARK.strip()

MARKED = {
    "as it is written": DEMO_MARK,
    "CRLF": TEXT + b"\r\n",
    "CR": TEXT + b"\r",
    "blank lines before it": b"\n\r\n  \n" + DEMO_MARK,
    "a BOM": b"\xef\xbb\xbf" + DEMO_MARK,
    "another comment before it": b"# from the laboratory\n" + DEMO_MARK,
    "capitals and more spaces": b"#  PROCUNIT   Demo\tkey\n",
    "broken over two lines": TEXT.replace(b"demo key", b"demo\n# key").replace(b"# ", b"") + b"\n",
    "UTF-16": TEXT.decode().encode("utf-16") + b"\n",
}


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mark", MARKED.values(), ids=MARKED)
def test_a_marked_key_is_a_demo_key_wherever_it_is_named(tmp_path: Path, mark: bytes) -> None:
    public = written(tmp_path / "release.pub", mark + PUBLIC)
    private = written(tmp_path / "release.pem", mark + PRIVATE)
    assert trusted_key_from_file(public, demo=False).demo
    (trusted,) = trusted_keys_from_files([public], [])
    assert trusted.demo
    assert keys_for_commands([trusted], demo_bundle=False) == ()
    assert keys_for_bank([public], (), demo_bundle=False) == ()
    assert [key.name for key in keys_for_bank([public], (), demo_bundle=True)] == ["release.pub"]
    assert signing_key_from_file(private).demo
    assert signing_key_from_file(private).trusted.demo


def test_the_mark_behind_the_key_counts_too(tmp_path: Path) -> None:
    assert trusted_key_from_file(written(tmp_path / "k.pub", PUBLIC + DEMO_MARK), demo=False).demo


def test_a_key_without_the_mark_is_what_it_is_named(tmp_path: Path) -> None:
    public = written(tmp_path / "release.pub", b"# a demo of our key, Procunit\n" + PUBLIC)
    assert not trusted_key_from_file(public, demo=False).demo
    assert trusted_key_from_file(public, demo=True).demo
    assert not signing_key_from_file(written(tmp_path / "release.pem", PRIVATE)).demo


def test_one_key_under_two_names_is_a_demo_key_if_it_is_one_under_either(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.pub", PUBLIC)
    marked = written(tmp_path / "marked.pub", DEMO_MARK + PUBLIC)
    other = written(tmp_path / "other.pub", OTHER_PUBLIC)
    for keys, demo_keys in (([plain, other], [plain]), ([plain, other], [marked]), ([plain, marked, other], [])):
        found = trusted_keys_from_files(keys, demo_keys)
        assert {(key.name, key.demo) for key in found if key.name != "other.pub"} == {
            (path.name, True) for path in (*keys, *demo_keys) if path != other
        }
        assert [key.demo for key in found if key.name == "other.pub"] == [False]
        assert [key.name for key in keys_for_commands(found, demo_bundle=False)] == ["other.pub"]
    (alike,) = trusted_keys_from_files([plain], [], [marked])
    assert (alike.name, alike.demo) == ("plain.pub", True)
    demo = trusted_keys_from_files([], [marked])
    assert keys_for_bank([plain], demo, demo_bundle=False) == ()


def test_a_private_demo_key_without_its_mark_is_known_by_the_public_half_beside_it(tmp_path: Path) -> None:
    private = written(tmp_path / "demo-key.pem", PRIVATE)
    assert not signing_key_from_file(private).demo
    written(tmp_path / "demo-key.pub", DEMO_MARK + OTHER_PUBLIC)
    assert not signing_key_from_file(private).demo
    written(tmp_path / "demo-key.pub", DEMO_MARK + PUBLIC)
    assert signing_key_from_file(private).demo


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777])
def test_a_private_key_that_others_can_read_is_refused_until_the_command_in_the_message_was_run(
    tmp_path: Path, mode: int
) -> None:
    private = written(tmp_path / "release.pem", PRIVATE, mode)
    with pytest.raises(ProcunitError, match="other users of this computer may read or change") as caught:
        signing_key_from_file(private)
    command = str(caught.value.remedy).removeprefix("Run: ").partition(" (")[0]
    subprocess.run(command.split(), check=True)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert signing_key_from_file(private).name == "release.pem"


def test_a_trusted_key_that_everybody_can_change_is_refused(tmp_path: Path) -> None:
    public = written(tmp_path / "release.pub", PUBLIC, 0o646)
    for read in (trusted_key_from_file, lambda path, demo: keys_for_bank([path], (), demo_bundle=demo)):
        with pytest.raises(ProcunitError, match=f"every user of this device may change .*chmod o-w {public}"):
            read(public, demo=False)
    public.chmod(0o644)
    assert trusted_key_from_file(public, demo=False)


def test_a_key_may_be_reached_by_a_link_and_the_file_behind_it_counts(tmp_path: Path) -> None:
    """Rotated keys are links; the mode of a link says nothing."""
    (tmp_path / "current.pem").symlink_to(written(tmp_path / "2026.pem", PRIVATE))
    assert signing_key_from_file(tmp_path / "current.pem")
    os.chmod(tmp_path / "2026.pem", 0o644)
    with pytest.raises(ProcunitError, match="other users"):
        signing_key_from_file(tmp_path / "current.pem")
