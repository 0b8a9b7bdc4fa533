"""`procunit bundle build`: a calibrated run becomes a sealed bundle, complete or not at all."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from safetensors.numpy import save_file

from calibration.calibrate import calibrate_run
from edge.bundle.keys import signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import BANK_KEY, GOOD, ScoreLimit
from edge.bundle.reader import Bundle, open_bundle
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.messages import Verdict
from edge.policy import logit
from export.bundle_from_run import bundle_from_run
from export.cli import bundle_build
from export.golden import MAX_FRAMES, MIN_DISTANCE_SPREADS, golden_photos
from export.signing import demo_key_from_run
from tests.support.tiny_bundle import tiny_bank
from tests.support.tiny_run import TinyRun, build_tiny_run
from training.data.run_files import (
    BANK_FILE,
    CALIBRATION_FILE,
    DEMO_KEY_FILE,
    DEMO_PUBLIC_KEY_FILE,
    TRAIN_FILE,
    TrainRecord,
    read_record,
    write_record,
)


@pytest.fixture
def run(calibrated_tiny_run: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of the run over the same photographs."""
    return TinyRun(Path(shutil.copytree(calibrated_tiny_run.path, tmp_path / "run")), calibrated_tiny_run.data)


def _build(run: TinyRun, *options: str) -> Path:
    out = run.path.parent / "bundle"
    result = CliRunner().invoke(bundle_build, [str(run.path), "--out", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def _open(run: TinyRun, bundle: Path) -> Bundle:
    return open_bundle(bundle, (trusted_key_from_file(run.path / DEMO_PUBLIC_KEY_FILE, demo=True),))


def test_the_bundle_contains_the_results_of_the_run_and_gives_no_authority(run: TinyRun) -> None:
    bundle = _open(run, _build(run))
    trained = read_record(run.path, TRAIN_FILE, TrainRecord)
    assert set(bundle.manifest.files) >= {"model.onnx", "bank.safetensors", "calibration.json", "known.json"}
    assert [(t.name, t.images, t.parts, t.authority) for t in bundle.manifest.types] == [
        ("dent", 8, 4, "review"),
        ("scratch", 8, 4, "review"),
    ]
    assert bundle.manifest.geometry == trained.geometry
    assert bundle.manifest.provenance.dataset_sha256 == trained.dataset_sha256
    roles = [photo.role for photo in bundle.known().photos]
    assert len(roles) == 40 + 24
    assert roles.count("seed") == 8 + 8


def test_golden_frames_pass_the_gate_and_show_both_verdicts(run: TinyRun) -> None:
    bundle = _open(run, _build(run))
    frames = bundle.golden().frames
    assert {frame.verdict for frame in frames} == {Verdict.PASS, Verdict.REVIEW}
    result = check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank()))
    assert result.passed, str(result)
    originals = [read_image(run.data / photo.file) for photo in read_record(run.path, TRAIN_FILE, TrainRecord).photos]
    for frame in frames:
        pixels = read_image(bundle.path / frame.file)
        assert any(np.array_equal(pixels, original) for original in originals)
        for score, defect_type in zip(frame.type_scores, bundle.manifest.types, strict=True):
            distance = logit(score) - logit(defect_type.limit.threshold)
            assert abs(distance) > MIN_DISTANCE_SPREADS * defect_type.limit.spread


def test_a_held_out_part_may_score_higher_with_the_whole_bank_than_in_the_calibration(tmp_path: Path) -> None:
    """The bank without its fold may have a nearer row, because no bank contains every patch."""
    run = build_tiny_run(tmp_path)
    whole = tiny_bank()
    whole[:, -1] *= 0.98
    save_file({BANK_KEY: whole}, run.path / BANK_FILE)
    record = calibrate_run(run.path)
    bundle = _open(run, _build(run))
    lowest = min(photo.anomaly_score for photo in record.scores if photo.label == GOOD)
    passing = [frame.anomaly_score for frame in bundle.golden().frames if frame.verdict is Verdict.PASS]
    assert record.anomaly is not None
    assert min(passing) > lowest + bundle.golden().tolerance * record.anomaly.spread
    assert check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank())).passed


def test_golden_frames_alternate_use_each_part_once_and_avoid_thresholds() -> None:
    limit = ScoreLimit(threshold=1.0, center=0.0, spread=0.1)

    def photo(index: int, score: float) -> PhotoScores:
        return PhotoScores(
            sha256=str(index), part_id=str(index // 2), label="good", type_scores=(), anomaly_score=score
        )

    near = [photo(100 + index, 1.0 + offset) for index, offset in enumerate((-0.019, 0.0, 0.019))]
    clear = [photo(index, 0.5 + index / 40) for index in range(60) if abs(index - 20) > 1]
    chosen = golden_photos([*near, *clear], (), limit)
    assert len({p.part_id for p in chosen}) == len(chosen)
    assert sorted(p.anomaly_score >= 1 for p in chosen[:MAX_FRAMES]) == [False] * 4 + [True] * 4
    assert all(abs(p.anomaly_score - 1) > 0.02 for p in chosen)
    assert golden_photos(near, (), limit) == []


def test_the_demo_key_is_created_once_and_only_its_owner_can_read_it(run: TinyRun) -> None:
    first = demo_key_from_run(run.path)
    assert (run.path / DEMO_KEY_FILE).stat().st_mode & 0o777 == 0o600
    again = demo_key_from_run(run.path)
    assert first.demo
    assert first.key.private_bytes_raw() == again.key.private_bytes_raw()


def test_with_a_production_key_no_demo_key_is_created(run: TinyRun, tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "factory.pem").write_bytes(pem)
    (tmp_path / "factory.pem").chmod(0o600)
    bundle = _build(run, "--key", str(tmp_path / "factory.pem"), "--product", "Gear 7", "--version", "3")
    opened = open_bundle(bundle, (signing_key_from_file(tmp_path / "factory.pem").trusted,))
    assert not opened.signed_by.demo
    assert (opened.manifest.product, opened.manifest.version) == ("Gear 7", 3)
    assert not (run.path / DEMO_KEY_FILE).exists()


def test_an_existing_bundle_is_replaced_only_with_force(run: TinyRun) -> None:
    bundle = _build(run)
    before = _open(run, bundle).bundle_id
    with pytest.raises(ProcunitError, match="exists already"):
        _build(run)
    assert _open(run, bundle).bundle_id == before
    _build(run, "--force", "--version", "2")
    assert _open(run, bundle).manifest.version == 2


def test_a_missing_photograph_leaves_no_partial_bundle(run: TinyRun, tmp_path: Path) -> None:
    moved = TinyRun(run.path, Path(shutil.copytree(run.data, tmp_path / "data")))
    record = read_record(run.path, TRAIN_FILE, TrainRecord).model_copy(update={"data": str(moved.data)})
    write_record(run.path, TRAIN_FILE, record)
    shutil.rmtree(moved.data / "good")
    with pytest.raises(ProcunitError, match=r"good/.*\.png: cannot be read"):
        _build(moved)
    assert not [p for p in tmp_path.iterdir() if "bundle" in p.name]


def test_an_outdated_calibration_is_detected(run: TinyRun) -> None:
    record = read_record(run.path, CALIBRATION_FILE, CalibrationRecord)
    stale = [s.model_copy(update={"anomaly_score": s.anomaly_score + 1}) for s in record.scores]
    write_record(run.path, CALIBRATION_FILE, record.model_copy(update={"scores": tuple(stale)}))
    with pytest.raises(ProcunitError, match="procunit calibrate"):
        _build(run)


def test_a_calibration_for_other_types_is_detected(run: TinyRun) -> None:
    record = read_record(run.path, CALIBRATION_FILE, CalibrationRecord)
    write_record(run.path, CALIBRATION_FILE, record.model_copy(update={"types": {"dent": record.types["dent"]}}))
    with pytest.raises(ProcunitError, match="other defect types"):
        _build(run)


def test_a_run_without_calibration_is_refused(run: TinyRun) -> None:
    (run.path / CALIBRATION_FILE).unlink()
    with pytest.raises(ProcunitError, match="procunit calibrate"):
        _build(run)


def test_an_invalid_product_name_is_refused(run: TinyRun) -> None:
    with pytest.raises(ProcunitError, match="product '<b>'"):
        bundle_from_run(run.path, run.path.parent / "bundle", demo_key_from_run(run.path), product="<b>")


@pytest.mark.parametrize(("good_parts", "defect_parts"), [(20, {}), (0, {"scratch": 6})])
def test_good_parts_only_or_one_type_only_make_a_bundle(
    tmp_path: Path, good_parts: int, defect_parts: dict[str, int]
) -> None:
    run = build_tiny_run(tmp_path, good_parts, defect_parts)
    calibrate_run(run.path)
    bundle = _open(run, _build(run))
    assert len(bundle.manifest.types) == len(defect_parts)
    assert (bundle.manifest.anomaly is None) == (good_parts == 0)
    assert (bundle.manifest.budget is None) == (good_parts == 0)
    assert check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank())).passed


class _Page(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_report_states_what_was_taught_and_what_is_missing_and_loads_nothing(run: TinyRun) -> None:
    record = read_record(run.path, TRAIN_FILE, TrainRecord)
    hostile = record.model_copy(update={"weights": '"><script src="http://example.com/x.js"></script>'})
    write_record(run.path, TRAIN_FILE, hostile)
    html = (_build(run) / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert not page.tags & {"script", "link", "iframe"}
    assert not page.attributes & {"href", "onload"}
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) > 6, "the legend, good parts and both types"
    assert all(source.startswith("data:image/") for source in sources)
    assert len(html) < 2_000_000
    text = re.sub(r"\s+", " ", page.text)
    assert "8 images, 4 parts" in text
    assert "8 images of 4 parts; 30 images of 10 parts needed" in text
    assert "at most 31.23% of good parts flagged" in text
    assert "0.900" in text
