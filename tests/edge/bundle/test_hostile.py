"""Hostile and damaged bundles: whatever they contain, they are refused with one sentence, and soon."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from edge.bundle.consistency import check_records
from edge.bundle.contents import MAX_ENTRIES, files_in
from edge.bundle.keys import signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import BANK, CALIBRATION, GOLDEN, KNOWN, MANIFEST, SIGNATURE, Manifest
from edge.bundle.reader import open_bundle
from edge.bundle.sealing import seal
from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle
from tools.drills.bundles.mutations import nested_folders

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    folder = tmp_path_factory.mktemp("pristine")
    return build_tiny_bundle(folder, ("scratch", "dent"), rejecting=("scratch",), grows=True)


@pytest.fixture
def tiny(pristine: TinyBundle, tmp_path: Path) -> TinyBundle:
    copy = Path(shutil.copytree(pristine.path.parent, tmp_path / "copy"))
    return TinyBundle(copy / "bundle", copy / "demo-key.pub", copy / "demo-key.pem")


def refusal(tiny: TinyBundle) -> ProcunitError:
    """Why opening the bundle and reading its records fails; it must not take long."""
    started_s = time.process_time()
    with pytest.raises(ProcunitError) as caught:
        check_records(open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),)))
    assert time.process_time() - started_s < 2
    return caught.value


def sign(tiny: TinyBundle, manifest: bytes) -> None:
    (tiny.path / MANIFEST).write_bytes(manifest)
    (tiny.path / SIGNATURE).write_bytes(signing_key_from_file(tiny.private_key).key.sign(manifest))


def sign_changed(tiny: TinyBundle, change: Change) -> None:
    manifest = json.loads((tiny.path / MANIFEST).read_bytes())
    change(manifest)
    sign(tiny, json.dumps(manifest).encode())


def seal_changed(tiny: TinyBundle, name: str, content: bytes) -> None:
    (tiny.path / name).write_bytes(content)
    body = Manifest.model_validate_json((tiny.path / MANIFEST).read_bytes())
    seal(tiny.path, body, signing_key_from_file(tiny.private_key))


def test_folders_in_folders_are_refused_at_the_second_one(tiny: TinyBundle) -> None:
    nested_folders(tiny.path, 1200)
    try:
        error = refusal(tiny)
    finally:
        subprocess.run(["rm", "-rf", tiny.path], check=True)  # too deep for pytest to remove
    assert error.what == "a folder within a folder"
    assert error.where == str(tiny.path / "d/d")


def test_thousands_of_files_are_refused_without_reading_all_their_names(tiny: TinyBundle) -> None:
    for number in range(MAX_ENTRIES + 1):
        (tiny.path / "golden" / f"{number}").touch()
    assert f"more than {MAX_ENTRIES} files and folders" in refusal(tiny).what


def test_pipes_and_sockets_are_refused(tiny: TinyBundle) -> None:
    os.mkfifo(tiny.path / "pipe")
    assert "plain files only" in refusal(tiny).what
    (tiny.path / "pipe").unlink()
    place = socket.socket(socket.AF_UNIX)
    with place:
        directory = os.open(tiny.path, os.O_RDONLY)
        place.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
        assert "plain files only" in refusal(tiny).what


def test_the_files_of_a_bundle_are_named_as_in_its_manifest(pristine: TinyBundle) -> None:
    manifest = Manifest.model_validate_json((pristine.path / MANIFEST).read_bytes())
    assert files_in(pristine.path) == {*manifest.files, MANIFEST, SIGNATURE}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["types"][0].update(images=3, parts=4), "3 images of 4 parts: the counts contradict each other"),
        (lambda m: m["types"][0].update(images=10**18, parts=10**18), "key types.0.images"),
        (lambda m: m["types"][0]["seeded"].update(detected=16), "16 of 15 seeded parts detected"),
        (lambda m: m["types"][0]["seeded"].update(false_rejects=101), "101 of 100 good parts rejected"),
        (lambda m: m["types"][0]["seeded"].update(parts=10**300, detected=10**300), "key types.0.seeded.parts"),
        (lambda m: m["types"][0]["seeded"].update(good_parts=10**15), "key types.0.seeded.good_parts"),
        (lambda m: m["types"][0]["limit"].update(threshold=2.0), "threshold 2 of a type is not within 0 and 1"),
        (lambda m: m["types"][0]["limit"].update(spread=5e-324), "key types.0.limit.spread"),
        (lambda m: m["types"][0]["limit"].update(center=1e308), "key types.0.limit.center"),
        (lambda m: m.update(types=[{**m["types"][0], "name": f"t{n}"} for n in range(65)]), "key types"),
        (lambda m: m["budget"].update(good_parts=5, flagged_parts=6), "6 of 5 good parts flagged"),
        (lambda m: m["anomaly"].update(threshold=-1e308), "key anomaly.threshold"),
        (lambda m: m["imaging"].update(sharpness=1e300), "key imaging.sharpness"),
        (lambda m: m.update(version=10**4000), "key version"),
        (lambda m: m["provenance"].update(seed=10**4000), "key provenance.seed"),
        (lambda m: m["provenance"].update(packages={f"{n}": "1" for n in range(1001)}), "key provenance.packages"),
        (
            lambda m: m["geometry"].update(regions=[{}] * 64, input_width_px=2048, input_height_px=2048),
            "64 regions of 2048 x 2048 px are 268 megapixels; at most 34 are inspected per frame",
        ),
        (lambda m: m["files"]["model.onnx"].update(size_bytes=2 << 30), "such a file has at most 1024 MB"),
        (lambda m: m["files"][GOLDEN].update(size_bytes=33 << 20), "such a file has at most 32 MB"),
        (lambda m: m["files"].update({"report.html": {**m["files"][BANK], "size_bytes": 65 << 20}}), "at most 64 MB"),
        (
            lambda m: m["files"].update({f"{n}.onnx": {**m["files"][BANK], "size_bytes": 1 << 30} for n in range(5)}),
            "all files together have",
        ),
    ],
)
def test_a_signed_manifest_that_is_absurd_or_contradicts_itself_is_refused(
    tiny: TinyBundle, change: Change, text: str
) -> None:
    sign_changed(tiny, change)
    error = refusal(tiny)
    assert text in error.what
    assert error.where == str(tiny.path / MANIFEST)


@pytest.mark.parametrize("depth", [300, 100_000])
@pytest.mark.parametrize("name", [MANIFEST, GOLDEN, CALIBRATION])
def test_json_of_any_depth_is_refused(tiny: TinyBundle, name: str, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    if name == MANIFEST:
        sign(tiny, nested)
    else:
        seal_changed(tiny, name, nested)
    assert refusal(tiny).where == str(tiny.path / name)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (GOLDEN, lambda g: g.update(frames=g["frames"] * 20), "key frames"),
        (GOLDEN, lambda g: g["frames"][0].update(anomaly_score=1e300), "key frames.0.anomaly_score"),
        (CALIBRATION, lambda c: c["types"].pop("dent"), "for other defect types"),
        (CALIBRATION, lambda c: c["scores"][0].update(type_scores=[0.5]), "for other defect types"),
        (CALIBRATION, lambda c: c["scores"][0].update(anomaly_score=float("nan")), "key scores.0.anomaly_score"),
    ],
)
def test_a_sealed_record_that_does_not_fit_is_refused(tiny: TinyBundle, name: str, change: Change, text: str) -> None:
    record = json.loads((tiny.path / name).read_bytes())
    change(record)
    seal_changed(tiny, name, json.dumps(record).encode())
    error = refusal(tiny)
    assert text in error.what
    assert error.where == str(tiny.path / name)


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("seed", "claims 60 images taught, but known.json lists 0"),
        ("train", "a seeded run on 15 parts, but known.json"),
    ],
)
def test_a_type_that_claims_more_than_the_bundle_lists_is_refused(tiny: TinyBundle, role: str, text: str) -> None:
    photos = [{"sha256": f"{n:064x}", "part_id": f"p{n}", "label": "scratch", "role": role} for n in range(60)]
    photos += [{"sha256": f"{n:063x}d", "part_id": f"d{n}", "label": "dent", "role": "train"} for n in range(60)]
    seal_changed(tiny, KNOWN, json.dumps({"photos": photos}).encode())
    assert text in refusal(tiny).what


def test_a_bank_with_a_type_that_numpy_lacks_is_refused(tiny: TinyBundle) -> None:
    data = save({"bank": np.ones((4, 4), np.float16)}).replace(b'"F16"', b'"BF16"'.replace(b'"BF16"', b'"F8"') + b" ")
    seal_changed(tiny, BANK, data)
    assert refusal(tiny).where == str(tiny.path / BANK)


def test_tiles_up_to_the_limit_are_taken() -> None:
    assert Geometry(input_width_px=1024, input_height_px=1024, regions=(Region(),) * 32).regions
    with pytest.raises(ValueError, match="megapixels; at most 34"):
        Geometry(input_width_px=1024, input_height_px=1056, regions=(Region(),) * 32)
