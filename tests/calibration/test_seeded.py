"""`procunit seed run`: results on seeded parts, and the bundle sealed again with the authority that they give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from calibration.calibrate import calibrate_run
from calibration.cli import seed_run
from calibration.seeded import SeededPhoto, Targets, seeded_result, seeded_run
from edge.bundle.keys import signing_key_from_file
from edge.bundle.manifest import MANIFEST, DefectType, KnownPhoto, ScoreLimit
from edge.bundle.reader import Bundle, open_bundle
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from edge.policy import policy_from_manifest
from export.bundle_from_run import bundle_from_run
from export.signing import demo_key_from_run
from tests.support.tiny_bundle import write_demo_key
from tests.support.tiny_run import TinyRun, build_tiny_run
from training.data.dataset import dataset_from_folder

_TARGETS = Targets(0.7, 0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run and its bundle with enough seeded parts to earn authority for `scratch`, too few for `dent`."""
    run = build_tiny_run(tmp_path_factory.mktemp("made"), good_parts=300, defect_parts={"scratch": 30, "dent": 6})
    calibrate_run(run.path)
    bundle_from_run(run.path, run.path.parent / "bundle", demo_key_from_run(run.path))
    return run


@pytest.fixture
def bundle(made: TinyRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path.parent / "bundle", tmp_path / "bundle"))


def _seed(bundle: Path, made: TinyRun, *options: str) -> Result:
    arguments = [str(bundle), "--data", str(made.data), *options]
    return CliRunner().invoke(seed_run, arguments, catch_exceptions=False, env={"COLUMNS": "200"})


def _open(bundle: Path, made: TinyRun) -> Bundle:
    return open_bundle(bundle, (signing_key_from_file(made.path / "demo-key.pem").trusted,))


def test_a_type_with_enough_evidence_earns_demo_authority_and_another_does_not(made: TinyRun, bundle: Path) -> None:
    before = _open(bundle, made)
    result = _seed(bundle, made, "--key", str(made.path / "demo-key.pem"))
    after = _open(bundle, made)
    dent, scratch = after.manifest.types
    assert scratch.seeded is not None
    assert (scratch.seeded.detected, scratch.seeded.parts) == (10, 10)
    assert (scratch.seeded.false_rejects, scratch.seeded.good_parts) == (0, 60)
    assert scratch.seeded.simulated
    assert scratch.authority == "demo_reject"
    assert dent.authority == "review"
    assert after.bundle_id != before.bundle_id
    assert after.manifest.created_at_utc > before.manifest.created_at_utc
    assert after.manifest.files == before.manifest.files
    assert "10 of 10 (at least 74.1%)" in result.output
    assert "0 of 60 (up to 4.9%)" in result.output
    assert "8 images of 4 parts; 30 images of 10 parts needed" in result.output
    policy = policy_from_manifest(after.manifest, demo_key=True)
    assert [t.authority for t in policy.types] == ["review", "demo_reject"]


def test_golden_frames_still_pass_with_authority(made: TinyRun, bundle: Path) -> None:
    _seed(bundle, made, "--key", str(made.path / "demo-key.pem"))
    after = _open(bundle, made)
    assert check_golden(after, OrtEngine(after.graphs(), after.bank())).passed


def test_a_target_beyond_the_seeded_parts_leaves_review(made: TinyRun, bundle: Path) -> None:
    _seed(bundle, made, "--key", str(made.path / "demo-key.pem"), "--target-detection", "0.8")
    assert [t.authority for t in _open(bundle, made).manifest.types] == ["review", "review"]


def test_a_simulated_run_gives_no_authority_under_a_production_key(made: TinyRun, tmp_path: Path) -> None:
    pem = (made.path / "demo-key.pem").read_bytes().split(b"\n", 1)[1]
    (tmp_path / "factory.pem").write_bytes(pem)
    (tmp_path / "factory.pem").chmod(0o600)
    key = signing_key_from_file(tmp_path / "factory.pem")
    assert not key.demo
    opened = bundle_from_run(made.path, tmp_path / "bundle", key)
    sealed = seeded_run(opened, dataset_from_folder(made.data), key, _TARGETS)
    assert [t.authority for t in sealed.manifest.types] == ["review", "review"]


@pytest.mark.parametrize("target", [("--target-detection", "0.6"), ("--target-false-reject", "0.1")])
def test_a_plant_may_not_demand_less_than_the_product_does(
    made: TinyRun, bundle: Path, target: tuple[str, str]
) -> None:
    assert _seed(bundle, made, "--key", str(made.path / "demo-key.pem"), *target).exit_code == 2


def test_a_missing_seeded_photograph_is_refused_and_the_bundle_untouched(
    made: TinyRun, bundle: Path, tmp_path: Path
) -> None:
    before = (bundle / MANIFEST).read_bytes()
    data = Path(shutil.copytree(made.data, tmp_path / "data"))
    shutil.rmtree(data / "dent")
    rows = (data / "parts.csv").read_text().splitlines()
    (data / "parts.csv").write_text("\n".join(row for row in rows if not row.startswith("dent/")))
    with pytest.raises(ProcunitError, match="4 of the bundle's 144 seeded photographs are not in this folder"):
        _seed(bundle, TinyRun(made.path, data), "--key", str(made.path / "demo-key.pem"))
    assert (bundle / MANIFEST).read_bytes() == before


def test_the_key_must_be_named_and_be_the_one_that_sealed_it(made: TinyRun, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match=r"--key RUN/demo-key\.pem"):
        _seed(bundle, made)
    write_demo_key(tmp_path)
    with pytest.raises(ProcunitError, match="not by any trusted key"):
        _seed(bundle, made, "--key", str(tmp_path / "demo-key.pem"))


def test_a_bundle_without_types_has_nothing_to_seed(tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path, defect_parts={})
    calibrate_run(run.path)
    opened = bundle_from_run(run.path, tmp_path / "bundle", demo_key_from_run(run.path))
    with pytest.raises(ProcunitError, match="no defect types"):
        seeded_run(opened, dataset_from_folder(run.data), demo_key_from_run(run.path), _TARGETS)


def test_every_photograph_of_a_defect_must_be_flagged_and_none_of_a_good_part() -> None:
    limit = ScoreLimit(threshold=0.5, center=0.0, spread=1.0)
    scratch = DefectType(name="scratch", images=40, parts=20, limit=limit)

    def shown(label: str, part: str, score: float, sha256: str) -> SeededPhoto:
        return SeededPhoto(KnownPhoto(sha256=sha256, part_id=part, label=label, role="seed"), (score, 0.0))

    result = seeded_result(
        scratch,
        0,
        [
            shown("scratch", "s1", 0.9, "a"),
            shown("scratch", "s1", 0.5, "b"),
            shown("scratch", "s2", 0.9, "c"),
            shown("scratch", "s2", 0.4, "d"),
            shown("dent", "s1", 0.1, "e"),
            shown("good", "g1", 0.1, "f"),
            shown("good", "g1", 0.6, "g"),
            shown("good", "g2", 0.1, "h"),
        ],
        _TARGETS,
        "2026-01-01T00:00:00.000Z",
    )
    assert (result.detected, result.parts) == (1, 2)
    assert (result.false_rejects, result.good_parts) == (1, 2)
