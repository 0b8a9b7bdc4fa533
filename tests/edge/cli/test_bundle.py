"""`procunit bundle show` and `bundle verify`, as a person calls them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.bundle.keys import DEMO_MARK
from edge.bundle.manifest import HELD_OUT, MANIFEST, SIGNATURE, ManifestBody
from edge.bundle.reader import Bundle, open_without_signature_check
from edge.bundle.sealing import seal
from edge.geometry import Geometry, Region
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle, write_demo_key


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("tiny"), ("scratch", "dent"), rejecting=("scratch",))


def _procunit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from edge.cli.main import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"COLUMNS": "200", "PATH": ""},
    )


def test_verify_prints_one_line_with_the_bundle_and_its_signer(tiny: TinyBundle) -> None:
    done = _procunit("bundle", "verify", tiny.path, "--demo-trust", tiny.public_key)
    assert done.returncode == 0
    assert done.stdout.startswith("tiny version 1, ")
    assert done.stdout.endswith("verified by demo-key.pub (demo key: authority in demonstrations only)\n")
    assert done.stdout.count("\n") == 1


def test_verify_needs_a_key(tiny: TinyBundle) -> None:
    done = _procunit("bundle", "verify", tiny.path)
    assert done.returncode == 2
    assert "--trust PUB" in done.stderr


def test_verify_names_the_changed_file_and_exits_with_2(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path)
    (tiny.path / "bank.safetensors").write_bytes(b"changed")
    done = _procunit("bundle", "verify", tiny.path, "--trust", tiny.public_key)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{tiny.path}/bank.safetensors: 7 bytes long instead of" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_evidence_of_a_bundle_that_can_grow_is_verified_too(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path, grows=True)
    manifest = open_without_signature_check(tiny.path).manifest
    assert _procunit("bundle", "verify", tiny.path, "--demo-trust", tiny.public_key).returncode == 0
    (tiny.path / HELD_OUT).write_bytes(b"signed, but not safetensors")
    seal(tiny.path, manifest, write_demo_key(tmp_path))
    done = _procunit("bundle", "verify", tiny.path, "--demo-trust", tiny.public_key)
    assert done.returncode == 2
    assert f"{tiny.path}/{HELD_OUT}: not a readable safetensors file" in done.stderr


def test_show_prints_whether_the_bank_can_grow(tiny: TinyBundle, growing: Bundle) -> None:
    assert "cannot be grown at the line" in _procunit("bundle", "show", tiny.path).stdout
    assert "can be grown at the line" in _procunit("bundle", "show", growing.path).stdout


def test_show_without_a_key_prints_not_verified(tiny: TinyBundle) -> None:
    done = _procunit("bundle", "show", tiny.path)
    assert done.returncode == 0
    assert "NOT VERIFIED" in done.stdout


def test_show_prints_evidence_authority_and_the_key(tiny: TinyBundle) -> None:
    shown = _procunit("bundle", "show", tiny.path, "--demo-trust", tiny.public_key).stdout
    assert "verified by demo-key.pub (demo key" in shown
    assert "60 (40 parts)" in shown
    assert "15 of 15 (simulated)" in shown
    assert "demo_reject" in shown
    assert "no seeded run yet" in shown
    assert "at most 14.00% of good parts" in shown


def test_show_prints_the_inspected_area(tiny: TinyBundle, tmp_path: Path) -> None:
    assert "the whole frame, nothing ignored" in _procunit("bundle", "show", tiny.path).stdout
    upper_half = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))
    regions = (Region(width=0.5), Region(x=0.5, width=0.25))
    body = ManifestBody(**open_without_signature_check(tiny.path).manifest.model_dump(exclude={"files"}))
    body = body.model_copy(update={"geometry": Geometry(regions=regions, ignored=(upper_half,))})
    bundle = Path(shutil.copytree(tiny.path, tmp_path / "bundle"))
    for name in (MANIFEST, SIGNATURE):
        (bundle / name).unlink()
    seal(bundle, body, write_demo_key(tmp_path))
    shown = _procunit("bundle", "show", bundle).stdout
    assert "2 regions (1: x 0 to 0.5, y 0 to 1; 2: x 0.5 to 0.75, y 0 to 1), 50.0% of it ignored" in shown


def test_show_ignores_the_authority_of_a_simulated_run_under_a_production_key(tiny: TinyBundle, tmp_path: Path) -> None:
    (tmp_path / "release.pub").write_bytes(tiny.public_key.read_bytes().removeprefix(DEMO_MARK))
    shown = _procunit("bundle", "show", tiny.path, "--trust", tmp_path / "release.pub").stdout
    assert "claims demo_reject" in shown
    assert "verified by release.pub (production key)" in shown


def test_a_demo_key_named_with_trust_is_shown_as_a_demo_key(tiny: TinyBundle) -> None:
    for command in ("show", "verify"):
        shown = _procunit("bundle", command, tiny.path, "--trust", tiny.public_key).stdout
        assert "verified by demo-key.pub (demo key" in shown
        assert "claims demo_reject" not in shown


def test_show_of_a_bundle_of_good_parts_alone(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path, types=())
    assert "No defect types taught" in _procunit("bundle", "show", tiny.path).stdout
