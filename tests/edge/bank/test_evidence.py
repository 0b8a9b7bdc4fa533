"""The patches of good parts and defects in a bundle: read completely, or refused with the name of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edge.bank.evidence import can_grow, evidence_from_bundle
from edge.bundle.keys import signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import (
    CALIBRATION,
    COUNTED_KEY,
    DEFECT_COUNTED_KEY,
    DEFECT_DISTANCES_KEY,
    DEFECT_PATCHES_KEY,
    DISTANCES_KEY,
    HELD_OUT,
    MANIFEST,
    PATCHES_GRAPH,
    PATCHES_KEY,
    Manifest,
)
from edge.bundle.reader import Bundle, open_bundle
from edge.bundle.sealing import seal
from edge.errors import ProcunitError
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle

Array = NDArray[np.float32] | NDArray[np.int32]
Tensors = dict[str, Array]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyBundle:
    return build_tiny_bundle(tmp_path, grows=True)


def sealed_again(tiny: TinyBundle) -> Bundle:
    """The bundle, sealed again with its present files."""
    body = Manifest.model_validate_json((tiny.path / MANIFEST).read_bytes())
    return seal(tiny.path, body, signing_key_from_file(tiny.private_key))


def changed(tiny: TinyBundle, change: Callable[[Tensors], object]) -> Bundle:
    tensors = load_file(tiny.path / HELD_OUT)
    change(tensors)
    save_file(tensors, tiny.path / HELD_OUT)
    return sealed_again(tiny)


def test_the_photographs_are_those_of_the_calibration_record_in_its_order(growing: Bundle) -> None:
    evidence = evidence_from_bundle(growing)
    assert evidence.good.part_ids == tuple(f"good-{seed}" for seed in range(2000, 2020))
    assert evidence.good.patches.shape == (20, 4, 3)
    assert evidence.good.counted == (2,) * 20
    assert not any(evidence.good.flagged_by_type)
    assert [defect.name.split(" (")[0] for defect in evidence.defects] == [
        f"the bundle's photograph of scratch, part scratch-{seed}" for seed in range(3000, 3003)
    ]
    for defect in evidence.defects:
        assert defect.flagged_by_type
        assert [(tile.patches.shape, tile.counted) for tile in defect.tiles] == [((4, 3), 2)]
        assert [distances.shape for distances in defect.distances] == [(4,)]


@pytest.mark.parametrize("file", [HELD_OUT, PATCHES_GRAPH, CALIBRATION])
def test_a_bundle_without_the_files_for_growing_is_too_old(tiny: TinyBundle, file: str) -> None:
    (tiny.path / file).unlink()
    with pytest.raises(ProcunitError, match=f"too old for a bank that grows: it has no {re.escape(file)}") as refused:
        evidence_from_bundle(sealed_again(tiny))
    assert "Build it again" in str(refused.value)
    assert not can_grow(sealed_again(tiny).manifest)


def put(key: str, value: Array | Callable[[Array], object]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({key: np.asarray(value(tensors[key]) if callable(value) else value)})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put(PATCHES_KEY, lambda p: p[:-1]), "do not fit 20 photographs and 3 features"),
        (put(DISTANCES_KEY, lambda d: d[:-1]), "do not fit 20 photographs"),
        (put(DISTANCES_KEY, lambda d: d[:, :-1]), "do not fit 20 photographs"),
        (put(PATCHES_KEY, lambda p: p[..., :2]), "do not fit 20 photographs and 3 features"),
        (put(PATCHES_KEY, lambda p: p.astype(np.float64)), "float64"),
        (put(DISTANCES_KEY, lambda d: d.astype(np.float16)), "do not fit"),
        (put(DEFECT_PATCHES_KEY, lambda p: p[:0]), "do not fit 3 photographs"),
        (put(PATCHES_KEY, lambda p: p * np.float32(np.nan)), "contains a value that is not finite"),
        (put(DEFECT_DISTANCES_KEY, lambda d: d + np.float32(np.inf)), "contains a value that is not finite"),
        (put(COUNTED_KEY, lambda c: c[:-1]), "do not fit 20 photographs"),
        (put(COUNTED_KEY, lambda c: c.astype(np.int64)), "int64"),
        (put(COUNTED_KEY, lambda c: 0 * c), "counted is not between 1 and 4, the patches kept"),
        (put(DEFECT_COUNTED_KEY, lambda c: c + np.int32(3)), "defect_counted is not between 1 and 4, the patches kept"),
        (put(DISTANCES_KEY, lambda d: d[:, ::-1].copy()), "is negative or not in descending order"),
        (put(DISTANCES_KEY, lambda d: -d[:, ::-1].copy()), "is negative or not in descending order"),
        (lambda tensors: tensors.pop(DISTANCES_KEY), "unexpected tensors: "),
        (put("more", np.zeros(1, np.float32)), "unexpected tensors: "),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tiny: TinyBundle, change: Callable[[Tensors], object], text: str) -> None:
    with pytest.raises(ProcunitError, match=re.escape(text)) as refused:
        evidence_from_bundle(changed(tiny, change))
    assert refused.value.where == str(tiny.path / HELD_OUT)


def test_bytes_that_are_not_safetensors_are_refused(tiny: TinyBundle) -> None:
    (tiny.path / HELD_OUT).write_bytes(b"\xff" * 100)
    with pytest.raises(ProcunitError, match="not a readable safetensors file"):
        evidence_from_bundle(sealed_again(tiny))


def test_scores_of_other_types_are_refused(tiny: TinyBundle) -> None:
    record = json.loads((tiny.path / CALIBRATION).read_text())
    record["scores"][0]["type_scores"] = [0.1, 0.2]
    (tiny.path / CALIBRATION).write_text(json.dumps(record))
    with pytest.raises(ProcunitError, match="2 scores for the bundle's 1 types"):
        evidence_from_bundle(sealed_again(tiny))


def test_a_bundle_without_an_anomaly_score_cannot_grow(growing: Bundle) -> None:
    assert can_grow(growing.manifest)
    assert not can_grow(growing.manifest.model_copy(update={"anomaly": None}))


def test_a_bundle_that_grows_is_verified_like_any_other(tiny: TinyBundle) -> None:
    with (tiny.path / HELD_OUT).open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ProcunitError, match="truncated or changed"):
        open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))
