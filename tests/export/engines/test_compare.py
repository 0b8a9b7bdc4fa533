"""`procunit engine compare` on ONNX Runtime: an equal variant, one that drifts, one that cannot be opened."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from edge.bundle.manifest import ManifestBody, graph_files
from edge.bundle.reader import Bundle
from edge.bundle.sealing import seal
from export.bundle_from_run import bundle_from_run
from export.engines import compare as engine_compare
from export.engines.tables_cli import compare
from export.signing import demo_key_from_run
from tests.support.tiny_run import TinyRun
from training.data.dataset import dataset_from_folder

_SHIFT = 3.0
"""By how many logits the INT8 variant's scores are off."""


@dataclass(frozen=True)
class Variants:
    """A bundle whose FP16 graph is a copy of its FP32 graph and whose INT8 graph drifts; and its photographs."""

    bundle: Bundle
    run: Path
    data: Path


@pytest.fixture(scope="module")
def variants(calibrated_tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Variants:
    run = Path(shutil.copytree(calibrated_tiny_run.path, tmp_path_factory.mktemp("variants") / "run"))
    key = demo_key_from_run(run)
    bundle = bundle_from_run(run, run.with_name("bundle"), key)
    reference = bundle.graphs()[0].path
    shutil.copyfile(reference, bundle.path / graph_files("fp16")[0])
    _write_shifted(reference, bundle.path / graph_files("int8")[0])
    body = ManifestBody.model_validate(bundle.manifest.model_dump(exclude={"files"}))
    return Variants(seal(bundle.path, body, key), run, calibrated_tiny_run.data)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_compare, "TIMED_S", 0.05)


def _write_shifted(graph: Path, path: Path) -> None:
    model = onnx.load(str(graph))
    offset = next(tensor for tensor in model.graph.initializer if tensor.name == "offset")
    shifted = numpy_helper.to_array(offset) + np.float32(_SHIFT)
    offset.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), "offset"))
    onnx.save(model, str(path))


def _compare(*arguments: str | Path) -> Result:
    return CliRunner().invoke(compare, [*map(str, arguments), "--threads", "1"], env={"COLUMNS": "200"})


def test_every_variant_is_checked_timed_and_compared_with_fp32(variants: Variants, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = _compare(variants.bundle.path, "--data", variants.data, "--json", figures)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())
    rows = {row["precision"]: row for row in found["variants"] if row["kind"] == "ort"}
    assert (found["bundle"], found["photos"], found["parts"]) == (variants.bundle.bundle_id, 64, 32)
    assert rows["fp32"]["passed"]
    assert rows["fp16"]["passed"]
    assert rows["fp16"]["flipped_parts"] == []
    assert rows["fp16"]["predicted_flip_rate"] < 1e-6
    assert not rows["int8"]["passed"]
    assert rows["int8"]["flipped_parts"]
    spreads = [t.limit.spread for t in variants.bundle.manifest.types]
    drifts = [rows["int8"]["worst_drifts"][t.name] for t in variants.bundle.manifest.types]
    assert drifts == pytest.approx([_SHIFT / spread for spread in spreads], rel=0.05)
    for row in rows.values():
        assert 0 < row["latency"]["p50_ms"] <= row["latency"]["p99_ms"]
        assert row["gpu_mb"] is None
        assert row["size_bytes"] == variants.bundle.graphs(row["precision"])[0].path.stat().st_size
    assert f"parts that flip: {rows['int8']['flipped_parts'][0]}" in done.output
    assert "golden frames fail, the worst golden/frame-" in done.output


def test_photographs_may_be_listed_in_a_csv(variants: Variants, tmp_path: Path) -> None:
    photos = dataset_from_folder(variants.data).photos[::4]
    with (variants.data / "photos.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "part_id"), *((p.file, p.label, p.part_id) for p in photos)])
    figures = tmp_path / "figures.json"
    done = _compare(variants.bundle.path, "--data", variants.data / "photos.csv", "--json", figures)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())
    assert (found["photos"], found["parts"]) == (len(photos), len({p.part_id for p in photos}))


def test_the_exit_status_is_that_of_the_precision_that_would_run(variants: Variants) -> None:
    assert _compare(variants.bundle.path, "--precision", "fp16").exit_code == 0
    done = _compare(variants.bundle.path, "--precision", "int8")
    assert done.exit_code == 1
    assert "int8 would run, but it does not pass the golden frames" in done.output


def test_a_variant_that_cannot_be_opened_is_a_row_with_the_reason(variants: Variants, tmp_path: Path) -> None:
    key = demo_key_from_run(variants.run)
    copy = Path(shutil.copytree(variants.bundle.path, tmp_path / "bundle"))
    model = onnx.load(copy / graph_files("fp16")[0])
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, copy / graph_files("fp16")[0])
    seal(copy, ManifestBody.model_validate(variants.bundle.manifest.model_dump(exclude={"files"})), key)
    done = _compare(copy, "--precision", "fp16")
    assert done.exit_code == 1
    assert "ONNX Runtime cannot load the graph" in done.output
    assert _compare(copy, "--precision", "fp32").exit_code == 0


def test_a_bundle_not_signed_by_a_trusted_key_is_not_run(variants: Variants, tmp_path: Path) -> None:
    other = demo_key_from_run(tmp_path)
    assert other.demo
    done = _compare(variants.bundle.path, "--demo-trust", tmp_path / "demo-key.pub")
    assert "not by any trusted key" in str(done.exception)
