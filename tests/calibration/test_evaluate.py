"""`procunit evaluate` on folders of tiny photographs: the promised keys, known parts left out, valid JSON always."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from calibration.calibrate import calibrate_run
from calibration.cli import evaluate
from edge.errors import ProcunitError
from export.bundle_from_run import bundle_from_run
from export.signing import demo_key_from_run
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.tiny_run import TinyRun, build_tiny_run, write_tiny_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = build_tiny_run(tmp_path_factory.mktemp("made"))
    calibrate_run(run.path)
    bundle_from_run(run.path, run.path.parent / "bundle", demo_key_from_run(run.path))
    return run


PROMISED_KEYS = [
    "bundle",
    "images",
    "parts",
    "skipped_images",
    "anomaly",
    "types",
    "verdicts",
    "at_false_alarm",
    "within_part_agreement",
    "size_only_auc",
    "latency_ms",
    "by_image",
]


def _evaluate(bundle: Path, data: Path, out: Path, *options: str) -> tuple[dict[str, Any], str]:
    arguments = [str(bundle), "--data", str(data), "--json", str(out / "figures.json"), *options]
    result = CliRunner().invoke(evaluate, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output

    def no_nan(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    figures: dict[str, Any] = json.loads((out / "figures.json").read_text(), parse_constant=no_nan)
    return figures, result.output


def test_the_promised_keys_and_no_others(made: TinyRun, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "new", 6, {"scratch": 3, "dent": 3}, first_seed=500)
    figures, output = _evaluate(made.path.parent / "bundle", tmp_path / "new", tmp_path)
    assert list(figures) == PROMISED_KEYS
    assert set(figures["anomaly"]) == {"auc", "auc_ci95"}
    assert set(figures["types"]) == {"scratch", "dent"}
    assert set(figures["types"]["dent"]) == {"images", "parts", "head_auc", "head_auc_ci95", "anomaly_auc"}
    assert set(figures["at_false_alarm"]) == {"0.01", "0.05"}
    assert set(figures["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(figures["by_image"]) == {"anomaly", "types", "verdicts", "at_false_alarm", "size_only_auc"}
    assert (figures["images"], figures["parts"], figures["skipped_images"]) == (24, 12, 0)
    assert figures["types"]["scratch"] == {
        "images": 6,
        "parts": 3,
        "head_auc": 1.0,
        "head_auc_ci95": [1.0, 1.0],
        "anomaly_auc": 1.0,
    }
    assert figures["verdicts"]["good"]["pass"] == 6
    assert figures["verdicts"]["scratch"]["review"] == 3
    assert figures["by_image"]["verdicts"]["scratch"]["review"] == 6
    assert figures["at_false_alarm"]["0.01"]["escape_rate"] == 0.0
    assert figures["within_part_agreement"] == 1.0
    assert figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    assert "image size alone" in output
    assert "NOT VERIFIED" in output


def test_parts_that_the_bundle_was_made_from_are_left_out_and_counted(made: TinyRun, tmp_path: Path) -> None:
    key = str(made.path / "demo-key.pub")
    figures, output = _evaluate(made.path.parent / "bundle", made.data, tmp_path, "--demo-trust", key)
    assert (figures["images"], figures["skipped_images"]) == (8 + 8, 40 + 24 - 16)
    assert "verified by demo-key.pub" in output


def test_a_csv_names_the_photographs_too(made: TinyRun, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "new", 4, {}, first_seed=500)
    first = next(iter(sorted((tmp_path / "new" / "good").iterdir())))
    (tmp_path / "new" / "photos.csv").write_text(f"file,label,part_id\ngood/{first.name},good,g500\n")
    figures, _ = _evaluate(made.path.parent / "bundle", tmp_path / "new" / "photos.csv", tmp_path)
    assert (figures["images"], figures["parts"]) == (1, 1)


def test_a_new_photograph_of_a_known_part_is_left_out_too(made: TinyRun, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "new", 4, {}, first_seed=500)
    known = next(iter(sorted((made.data / "good").glob("g000-*.png"))))
    shutil.copy(known, tmp_path / "new" / "good" / "copy.png")
    with (tmp_path / "new" / "parts.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(("good/copy.png", "g500"))
    figures, _ = _evaluate(made.path.parent / "bundle", tmp_path / "new", tmp_path)
    assert (figures["images"], figures["skipped_images"]) == (6, 3)


def test_a_folder_of_known_parts_alone_is_refused(made: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(
        made.data / "good", tmp_path / "new" / "good", ignore=lambda _, names: [n for n in names if "g000" not in n]
    )
    with pytest.raises(ProcunitError, match="every part in this folder"):
        _evaluate(made.path.parent / "bundle", tmp_path / "new", tmp_path)
    assert not (tmp_path / "figures.json").exists()


def test_good_parts_alone_leave_nulls(made: TinyRun, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "new", 4, {}, first_seed=500)
    figures, _ = _evaluate(made.path.parent / "bundle", tmp_path / "new", tmp_path)
    assert figures["anomaly"] == {"auc": None, "auc_ci95": None}
    assert figures["types"] == {}
    assert figures["at_false_alarm"]["0.05"] == {"escape_rate": None}
    assert figures["size_only_auc"] is None


def test_an_anomaly_only_bundle_inspects_types_that_it_was_not_trained_on(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path / "tiny", types=())
    write_tiny_dataset(tmp_path / "new", 4, {"scratch": 2}, first_seed=500)
    figures, _ = _evaluate(tiny.path, tmp_path / "new", tmp_path)
    assert figures["types"]["scratch"]["head_auc"] is None
    assert figures["types"]["scratch"]["anomaly_auc"] == 1.0
    assert figures["verdicts"]["scratch"]["review"] == 2


def test_an_unreadable_image_is_named(made: TinyRun, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "new", 4, {}, first_seed=500)
    (tmp_path / "new" / "good" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ProcunitError, match=r"broken\.png: not a readable image"):
        _evaluate(made.path.parent / "bundle", tmp_path / "new", tmp_path)
    assert not (tmp_path / "figures.json").exists()


def test_a_missing_folder_for_the_figures_is_refused_before_the_evaluation(made: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="does not exist"):
        _evaluate(made.path.parent / "bundle", made.data, tmp_path / "absent")
