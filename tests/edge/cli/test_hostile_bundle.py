"""Every command that opens a bundle: one sentence on stderr and exit code 2, whatever the bundle is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.bundle.keys import signing_key_from_file
from edge.bundle.manifest import MANIFEST, SIGNATURE
from edge.cli.main import main
from tests.support.device import Device
from tests.support.tiny_bundle import build_tiny_bundle, write_demo_key
from tools.drills.bundles.mutations import nested_folders

COMMANDS = {
    "bundle show": ["bundle", "show", "{bundle}", "--demo-trust", "{public}"],
    "bundle show without a key": ["bundle", "show", "{bundle}"],
    "bundle verify": ["bundle", "verify", "{bundle}", "--demo-trust", "{public}"],
    "seed run": ["seed", "run", "{bundle}", "--data", "{folder}", "--key", "{private}"],
    "evaluate": ["evaluate", "{bundle}", "--data", "{folder}"],
    "engine build": ["engine", "build", "{bundle}", "--cache", "{folder}/cache"],
    "engine compare": ["engine", "compare", "{bundle}", "--cache", "{folder}/cache"],
    "engine bench": ["engine", "bench", "{bundle}", "--cache", "{folder}/cache"],
    "engine bare": ["engine", "bare", "{bundle}", "--out", "{folder}/bare.onnx"],
    "bank show": ["bank", "show", "--config", "{folder}/line.yaml"],
    "bank undo": ["bank", "undo", "--config", "{folder}/line.yaml"],
    "bank add": ["bank", "add", "--config", "{folder}/line.yaml", "--key", "{private}", "{bundle}/golden/good-0.png"],
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("tiny"), rejecting=("scratch",)).path


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    device = Device(tmp_path, 1)
    write_demo_key(tmp_path)
    (tmp_path / "photos").mkdir()
    device.write_settings()
    yield Path(shutil.copytree(pristine, tmp_path / "bundle"))
    subprocess.run(["rm", "-rf", tmp_path / "bundle"], check=True)  # too deep for pytest to remove


def call(
    bundle: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and stderr of a command on this bundle."""
    folder = bundle.parent
    names = {"bundle": bundle, "folder": folder, "public": folder / "demo-key.pub", "private": folder / "demo-key.pem"}
    monkeypatch.setattr(sys, "argv", ["procunit", *(part.format(**names) for part in COMMANDS[command])])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(str(caught.value.code)), capsys.readouterr().err


def nested(bundle: Path) -> None:
    nested_folders(bundle, 1200)


def huge_counts(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["types"][0]["seeded"].update(good_parts=10**18, false_rejects=10**17)
    data = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / SIGNATURE).write_bytes(signing_key_from_file(bundle.parent / "demo-key.pem").key.sign(data))


def control_characters(bundle: Path) -> None:
    (bundle / "golden" / "\x1b[2J\x1b]0;owned\x07").touch()


@pytest.mark.parametrize("damage", [nested, huge_counts, control_characters])
@pytest.mark.parametrize("command", COMMANDS)
def test_one_sentence_and_exit_2(
    bundle: Path,
    command: str,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(bundle)
    code, text = call(bundle, command, monkeypatch, capsys)
    assert code == 2
    assert text.count("\n") == 1
    assert text.startswith("procunit: ")
    assert str(bundle) in text
    assert not any(ord(character) < 32 for character in text.rstrip("\n"))


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), OverflowError("int too large")])
@pytest.mark.parametrize("place", ["open_bundle", "check_records"])
def test_what_nobody_thought_of_is_one_sentence_too(
    bundle: Path,
    place: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"edge.cli.bundle.{place}", failing)
    code, text = call(bundle, "bundle verify", monkeypatch, capsys)
    assert code == 2
    assert text == (f"procunit: an input is deeper or larger than this program can handle ({type(error).__name__})\n")
