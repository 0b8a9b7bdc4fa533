"""Held-out good parts of an exported run: calibration scores them as new parts; the bundle's bank contains them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from calibration.calibrate import calibrate_run
from edge.anomaly import distances_to_rows, score_from_distances
from edge.bank.evidence import Evidence, evidence_from_bundle
from edge.bundle.manifest import GOOD
from edge.bundle.reader import Bundle, bank_from_file
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.image_file import read_image
from export.bundle_from_run import bundle_from_run
from export.signing import demo_key_from_run
from tests.export.textbook import Floats
from training.data.run_files import (
    BANK_FILE,
    EXPORT_FILE,
    FOLD_BANKS_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    graphs_of_run,
    read_record,
)


@dataclass(frozen=True)
class Calibrated:
    """A calibrated run and its bundle."""

    run: Path
    trained: TrainRecord
    exported: ExportRecord
    record: CalibrationRecord
    bundle: Bundle

    @property
    def good(self) -> list[PhotoScores]:
        """The scores of held-out good photographs."""
        return [scores for scores in self.record.scores if scores.label == GOOD]

    def bank_for(self, scores: PhotoScores) -> Floats:
        """The bank that a photograph is scored with: without its fold, or the whole one."""
        if scores.label != GOOD:
            return bank_from_file(self.run / BANK_FILE)
        fold = self.exported.fold_of[scores.part_id]
        return np.asarray(load_file(self.run / FOLD_BANKS_FILE)[str(fold)], np.float32)


@pytest.fixture(scope="module")
def calibrated(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    run = Path(shutil.copytree(exported, tmp_path_factory.mktemp("calibrated") / "run"))
    record = calibrate_run(run)
    bundle = bundle_from_run(run, run.with_name("bundle"), demo_key_from_run(run))
    trained, of_export = read_record(run, TRAIN_FILE, TrainRecord), read_record(run, EXPORT_FILE, ExportRecord)
    return Calibrated(run, trained, of_export, record, bundle)


@pytest.fixture(scope="module")
def evidence(calibrated: Calibrated) -> Evidence:
    return evidence_from_bundle(calibrated.bundle)


def test_each_photograph_has_the_score_of_its_fold_bank(calibrated: Calibrated) -> None:
    files = {photo.sha256: Path(calibrated.trained.data) / photo.file for photo in calibrated.trained.photos}
    graphs, geometry = graphs_of_run(calibrated.run, calibrated.exported), calibrated.trained.geometry
    assert len({calibrated.exported.fold_of[scores.part_id] for scores in calibrated.good}) == 3
    for scores in calibrated.record.scores:
        engine = OrtEngine(graphs, calibrated.bank_for(scores), threads=1)
        found, _ = score_pixels(read_image(files[scores.sha256]), geometry, engine)
        engine.close()
        assert scores.anomaly_score == pytest.approx(found.anomaly_score, rel=1e-5)


def test_a_part_in_the_bank_scores_lower_than_in_the_calibration(calibrated: Calibrated) -> None:
    """This is why thresholds are not taken from the whole bank, which contains patches of the part itself."""
    files = {photo.sha256: Path(calibrated.trained.data) / photo.file for photo in calibrated.trained.photos}
    engine = OrtEngine(calibrated.bundle.graphs(), calibrated.bundle.bank(), threads=1)
    seen = [
        score_pixels(read_image(files[scores.sha256]), calibrated.trained.geometry, engine)[0].anomaly_score
        for scores in calibrated.good
    ]
    engine.close()
    assert np.mean(seen) < np.mean([scores.anomaly_score for scores in calibrated.good])


def test_golden_frames_of_parts_in_the_bank_pass_the_gate(calibrated: Calibrated) -> None:
    bundle = calibrated.bundle
    photos = {photo.file: photo for photo in calibrated.trained.photos}
    pixels = {file: read_image(Path(calibrated.trained.data) / file) for file in photos}
    shown = [read_image(bundle.path / frame.file) for frame in bundle.golden().frames]
    origins = [photos[f] for one in shown for f, original in pixels.items() if np.array_equal(original, one)]
    assert len(origins) == len(shown)
    assert any(photo.part_id in calibrated.exported.fold_of for photo in origins)
    result = check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank(), threads=1))
    assert result.passed, str(result)


def test_the_bundle_keeps_held_out_patches_with_their_distances_to_the_bank_without_them(
    calibrated: Calibrated, evidence: Evidence
) -> None:
    held_out = evidence.good
    assert held_out.part_ids == tuple(scores.part_id for scores in calibrated.good)
    for place, scores in enumerate(calibrated.good):
        distances = held_out.distances[place]
        wanted = distances_to_rows(held_out.patches[place], calibrated.bank_for(scores))
        np.testing.assert_allclose(distances, wanted, atol=1e-3)
        score = score_from_distances(distances, held_out.counted[place])
        assert score == pytest.approx(scores.anomaly_score, rel=1e-5), "one tile: exactly this score"


def test_the_bundle_keeps_each_taught_defect_and_whether_its_type_flags_it(
    calibrated: Calibrated, evidence: Evidence
) -> None:
    defects = [scores for scores in calibrated.record.scores if scores.label != GOOD]
    assert len(evidence.defects) == len(defects) > 0
    for defect, scores in zip(evidence.defects, defects, strict=True):
        assert scores.part_id in defect.name
        (tile,), (distances,) = defect.tiles, defect.distances
        assert score_from_distances(distances, tile.counted) == pytest.approx(scores.anomaly_score, rel=1e-5)
        limits = (t.limit.threshold for t in calibrated.bundle.manifest.types)
        assert defect.flagged_by_type == any(s >= t for s, t in zip(scores.type_scores, limits, strict=True))
