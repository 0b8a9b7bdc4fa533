"""Bundles that are damaged, changed or hostile: each is refused with an error that names the file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from edge.bundle.keys import TrustedKey, signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import BANK, CALIBRATION, GOLDEN, KNOWN, MANIFEST, SIGNATURE, Manifest, graph_files
from edge.bundle.reader import (
    MAX_MANIFEST_BYTES,
    Bundle,
    bank_from_file,
    bundle_id_from_manifest,
    open_bundle,
    open_without_signature_check,
)
from edge.bundle.sealing import seal
from edge.errors import ProcunitError
from edge.system.files import new_directory
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle

(MODEL,) = graph_files()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("pristine"), ("scratch", "dent"))


@pytest.fixture
def tiny(pristine: TinyBundle, tmp_path: Path) -> TinyBundle:
    copy = Path(shutil.copytree(pristine.path.parent, tmp_path / "copy"))
    return TinyBundle(copy / "bundle", copy / "demo-key.pub", copy / "demo-key.pem")


def _open(tiny: TinyBundle) -> Bundle:
    return open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))


def _refused(tiny: TinyBundle, file: str, text: str) -> None:
    with pytest.raises(ProcunitError, match=re.escape(text)) as caught:
        _open(tiny)
    assert caught.value.where == str(tiny.path / file)


def _sign_changed_manifest(tiny: TinyBundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and sign it, as the holder of the key can."""
    manifest = json.loads((tiny.path / MANIFEST).read_bytes())
    change(manifest)
    data = json.dumps(manifest).encode()
    (tiny.path / MANIFEST).write_bytes(data)
    (tiny.path / SIGNATURE).write_bytes(signing_key_from_file(tiny.private_key).key.sign(data))


def _seal_again(tiny: TinyBundle) -> Bundle:
    body = Manifest.model_validate_json((tiny.path / MANIFEST).read_bytes())
    return seal(tiny.path, body, signing_key_from_file(tiny.private_key))


def test_a_pristine_bundle_opens_and_its_id_is_the_hash_of_the_manifest(tiny: TinyBundle) -> None:
    bundle = _open(tiny)
    assert bundle.bundle_id == bundle_id_from_manifest((tiny.path / MANIFEST).read_bytes())
    assert bundle.signed_by.demo
    assert [t.name for t in bundle.manifest.types] == ["scratch", "dent"]
    assert bundle.bank().dtype == np.float32
    assert len(bundle.golden().frames) == 4
    assert bundle.known().photos == ()


def test_no_directory(tiny: TinyBundle) -> None:
    shutil.rmtree(tiny.path)
    _refused(tiny, "", "no bundle here")


@pytest.mark.parametrize("file", [MANIFEST, SIGNATURE, MODEL, BANK, GOLDEN])
def test_a_missing_file(tiny: TinyBundle, file: str) -> None:
    (tiny.path / file).unlink()
    _refused(tiny, file, "missing")


@pytest.mark.parametrize("file", [MODEL, BANK, GOLDEN])
def test_a_truncated_file(tiny: TinyBundle, file: str) -> None:
    data = (tiny.path / file).read_bytes()
    (tiny.path / file).write_bytes(data[:-1])
    _refused(tiny, file, f"{len(data) - 1} bytes long instead of {len(data)}")


def test_a_changed_byte_in_the_bank(tiny: TinyBundle) -> None:
    data = bytearray((tiny.path / BANK).read_bytes())
    data[-1] ^= 1
    (tiny.path / BANK).write_bytes(data)
    _refused(tiny, BANK, "sha256 differs")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_anywhere_is_refused(pristine: TinyBundle, data: st.DataObject) -> None:
    files = sorted(p for p in pristine.path.rglob("*") if p.is_file())
    file = data.draw(st.sampled_from(files))
    original = file.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        with pytest.raises(ProcunitError):
            _open(pristine)
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 65])
def test_a_wrong_signature(tiny: TinyBundle, signature: bytes) -> None:
    (tiny.path / SIGNATURE).write_bytes(signature)
    _refused(tiny, SIGNATURE, "the signature is not by any trusted key (demo-key.pub)")


def test_a_signature_by_another_key(tiny: TinyBundle) -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
    (tiny.path / SIGNATURE).write_bytes(stranger.sign((tiny.path / MANIFEST).read_bytes()))
    _refused(tiny, SIGNATURE, "not by any trusted key")
    assert open_bundle(tiny.path, (TrustedKey("theirs", stranger.public_key(), demo=False),)).signed_by.name == "theirs"


def test_no_trusted_key_opens_nothing(tiny: TinyBundle) -> None:
    with pytest.raises(ProcunitError, match=r"any trusted key \(none\)"):
        open_bundle(tiny.path, ())


def test_an_unlisted_file(tiny: TinyBundle) -> None:
    (tiny.path / "golden" / "extra.png").write_bytes(b"x")
    _refused(tiny, "golden/extra.png", "not listed")


def test_a_link_in_place_of_a_file(tiny: TinyBundle, tmp_path: Path) -> None:
    (tiny.path / MODEL).rename(tmp_path / "elsewhere.onnx")
    (tiny.path / MODEL).symlink_to(tmp_path / "elsewhere.onnx")
    _refused(tiny, MODEL, "no links")


def test_a_linked_manifest(tiny: TinyBundle, tmp_path: Path) -> None:
    (tiny.path / MANIFEST).rename(tmp_path / "elsewhere.json")
    (tiny.path / MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    _refused(tiny, MANIFEST, "not a plain file")


@pytest.mark.parametrize(
    "name", ["../outside", "golden/../../outside", "/etc/passwd", "a/b/c", ".hidden", MANIFEST, "a\\..\\b", ""]
)
def test_a_file_name_that_leads_out_of_the_bundle_is_refused(tiny: TinyBundle, name: str) -> None:
    _sign_changed_manifest(tiny, lambda m: m["files"].update({name: m["files"][MODEL]}))
    _refused(tiny, MANIFEST, f"file name {name!r} is not allowed")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(surprise=1), "key surprise: Extra inputs are not permitted"),
        (lambda m: m["types"][0].update(surprise=1), "key types.0.surprise: Extra inputs are not permitted"),
        (lambda m: m.pop("geometry"), "key geometry: Field required"),
        (lambda m: m.update(schema_version=2), "key schema_version"),
        (lambda m: m["files"].pop(BANK), "the manifest lists no bank.safetensors"),
        (lambda m: m["types"][1].update(name="scratch"), "two defect types have the same name"),
        (lambda m: m["types"][0].update(name="\x1b[2J"), "key types.0.name"),
        (lambda m: m["provenance"].update(weights="\x1b]0;hello\x07"), "key provenance.weights"),
        (lambda m: m["anomaly"].update(spread=0), "key anomaly.spread"),
        (lambda m: m["anomaly"].update(threshold=float("nan")), "key anomaly.threshold"),
        (lambda m: m["geometry"].update(input_width_px=1 << 20), "key geometry.input_width_px"),
    ],
)
def test_a_signed_manifest_with_a_forbidden_value_is_refused(
    tiny: TinyBundle, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    _sign_changed_manifest(tiny, change)
    _refused(tiny, MANIFEST, text)


def test_an_oversized_manifest_is_not_even_read(tiny: TinyBundle) -> None:
    with (tiny.path / MANIFEST).open("r+b") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    _refused(tiny, MANIFEST, f"larger than {MAX_MANIFEST_BYTES} bytes")


def test_a_manifest_that_is_no_json_is_refused_even_without_a_signature_check(tiny: TinyBundle) -> None:
    (tiny.path / MANIFEST).write_bytes(b"{" * 2000)
    with pytest.raises(ProcunitError, match=r"manifest\.json"):
        open_without_signature_check(tiny.path)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"bank": np.full((4, 3), np.nan, np.float32)}, "finite numbers"),
        ({"bank": np.full((4, 3), np.inf, np.float32)}, "finite numbers"),
        ({"bank": np.zeros((4, 3), np.float64)}, "one float32 matrix named 'bank'"),
        ({"bank": np.zeros(12, np.float32)}, "one float32 matrix named 'bank'"),
        ({"memory": np.zeros((4, 3), np.float32)}, "one float32 matrix named 'bank'"),
        ({"bank": np.zeros((4, 3), np.float32), "more": np.zeros(1, np.float32)}, "one float32 matrix named 'bank'"),
        ({"bank": np.zeros((0, 3), np.float32)}, "1 to 16384 rows"),
        ({"bank": np.zeros((16_385, 1), np.float32)}, "1 to 16384 rows"),
        ({"bank": np.ones((4, 1), np.float32)}, "features and, as its last number, a local scale above 0"),
        ({"bank": np.array([[1, 1], [1, 0]], np.float32)}, "a local scale above 0"),
        ({"bank": np.array([[1, 1], [1, -1]], np.float32)}, "a local scale above 0"),
    ],
)
def test_a_sealed_bank_that_is_malformed_is_refused(
    tiny: TinyBundle, tensors: dict[str, NDArray[np.float32] | NDArray[np.float64]], text: str
) -> None:
    (tiny.path / BANK).write_bytes(save(tensors))
    _seal_again(tiny)
    bundle = _open(tiny)
    with pytest.raises(ProcunitError, match=re.escape(text)) as caught:
        bundle.bank()
    assert caught.value.where == str(tiny.path / BANK)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_a_bank(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "arbitrary.safetensors"
    file.write_bytes(data)
    with pytest.raises(ProcunitError, match=r"arbitrary\.safetensors"):
        bank_from_file(file)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: g["frames"][0].update(file="../../etc/passwd"), "does not fit the manifest"),
        (lambda g: g["frames"][0].update(type_scores=[0.5]), "does not fit the manifest"),
        (lambda g: g.update(tolerance=5.0), "key tolerance"),
    ],
)
def test_sealed_golden_records_that_do_not_fit_the_manifest(
    tiny: TinyBundle, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    golden = json.loads((tiny.path / GOLDEN).read_bytes())
    change(golden)
    (tiny.path / GOLDEN).write_text(json.dumps(golden))
    _seal_again(tiny)
    with pytest.raises(ProcunitError, match=text) as caught:
        _open(tiny).golden()
    assert caught.value.where == str(tiny.path / GOLDEN)


def test_a_damaged_list_of_known_photographs_names_its_file(tiny: TinyBundle) -> None:
    (tiny.path / KNOWN).write_text('{"photos": [{"sha256": 1}]}')
    _seal_again(tiny)
    with pytest.raises(ProcunitError, match=r"known\.json: key photos"):
        _open(tiny).known()


def test_a_damaged_calibration_record_names_the_bundle_file_and_no_command_of_the_run(tiny: TinyBundle) -> None:
    """The device cannot run `procunit calibrate`: it has the bundle, not the run directory."""
    (tiny.path / CALIBRATION).write_text('{"types": {}}')
    _seal_again(tiny)
    with pytest.raises(ProcunitError, match="key anomaly: Field required") as caught:
        _open(tiny).calibration()
    assert caught.value.where == str(tiny.path / CALIBRATION)
    assert "procunit calibrate" not in str(caught.value)


def test_a_bundle_without_a_calibration_record_has_none(tiny: TinyBundle) -> None:
    assert _open(tiny).calibration() is None


def test_a_file_that_is_not_a_key_is_refused(tiny: TinyBundle, tmp_path: Path) -> None:
    for read in (lambda p: trusted_key_from_file(p, demo=False), signing_key_from_file):
        with pytest.raises(ProcunitError, match=r"absent\.pem"):
            read(tmp_path / "absent.pem")
        (tmp_path / "text.pem").write_text("hello")
        with pytest.raises(ProcunitError, match=r"text\.pem"):
            read(tmp_path / "text.pem")
    tiny.public_key.chmod(0o600)
    with pytest.raises(ProcunitError, match=r"demo-key\.pub: cannot read the signing key"):
        signing_key_from_file(tiny.public_key)


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(FileNotFoundError), new_directory(target, replace=False) as partial:
        (partial / "half").write_text((tmp_path / "absent").read_text())
    assert list(tmp_path.iterdir()) == []
    with new_directory(target, replace=False) as partial:
        (partial / "file").write_text("first")
    with pytest.raises(ProcunitError, match="exists already"), new_directory(target, replace=False):
        pass
    with new_directory(target, replace=True) as partial:
        (partial / "file").write_text("second")
        assert (target / "file").read_text() == "first"
    assert (target / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_is_found_again_after_a_power_cut_between_the_two_renames(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with new_directory(target, replace=False) as partial:
        (partial / "file").write_text("first")
    target.rename(tmp_path / ".bundle.replaced")
    with pytest.raises(ProcunitError, match="exists already"), new_directory(target, replace=False):
        pass
    assert (target / "file").read_text() == "first"


@pytest.mark.parametrize(
    ("added", "precisions", "graphs"),
    [
        ((), ("fp32",), ["model.onnx"]),
        (("model.fp16.onnx", "extractor.int8.onnx"), ("fp16", "fp32"), ["model.onnx"]),
        (("classifier.onnx", "extractor.onnx"), ("fp32",), ["classifier.onnx", "extractor.onnx"]),
    ],
)
def test_a_precision_is_listed_if_the_bundle_has_all_its_graphs(
    tiny: TinyBundle, added: tuple[str, ...], precisions: tuple[str, ...], graphs: list[str]
) -> None:
    for name in added:
        shutil.copy(tiny.path / MODEL, tiny.path / name)
    bundle = _seal_again(tiny)
    assert bundle.precisions == precisions
    assert [path.name for path in bundle.graphs()] == graphs


def test_a_bundle_without_its_reference_graph(tiny: TinyBundle) -> None:
    _sign_changed_manifest(tiny, lambda m: m["files"].pop(MODEL))
    _refused(tiny, MANIFEST, "the manifest lists no model.onnx")
