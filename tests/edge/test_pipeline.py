"""Whatever happens to a part, it gets exactly one verdict with a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.bundle.reader import BundleContent, open_without_signature_check
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.messages import Frame, Inspection, NotInspected, PixelArray, Trigger, Verdict
from edge.pipeline import inspect_part
from edge.policy import policy_from_manifest
from edge.preprocess import tensor_from_pixels
from edge.recipe import Recipe, recipe_from_bundle
from tests.support.recipes import NoEngine
from tests.support.tiny_bundle import build_tiny_bundle, defect_image, good_image


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> BundleContent:
    types = ("scratch", "spot")
    tiny = build_tiny_bundle(tmp_path_factory.mktemp("tiny"), types=types, rejecting=("scratch",))
    return open_without_signature_check(tiny.path)


@pytest.fixture(scope="module")
def engine(content: BundleContent) -> Iterator[OrtEngine]:
    engine = OrtEngine(content.graphs(), content.bank(), threads=1)
    yield engine
    engine.close()


@pytest.fixture
def recipe(content: BundleContent, engine: OrtEngine) -> Recipe:
    policy = policy_from_manifest(content.manifest, demo_key=True, audit_rate=0.5)
    return recipe_from_bundle(content, policy, engine)


def inspected(trigger: Trigger, recipe: Recipe) -> Inspection:
    """The inspection of a part that is not drawn for an audit."""
    return inspect_part(trigger, recipe, audit_draw=0.9)


def trigger(pixels: PixelArray | None, reason: NotInspected | None = None) -> Trigger:
    frame = None if pixels is None else Frame("f1", "P1", 1, "2026-01-01T00:00:00Z", time.monotonic_ns(), pixels)
    return Trigger(7, "f1", "P1", 1, "2026-01-01T00:00:00Z", time.monotonic_ns(), frame, reason)


def test_good_parts_pass_and_defects_get_the_verdict_of_their_authority(recipe: Recipe) -> None:
    good = inspected(trigger(good_image(1)), recipe)
    rejected = inspected(trigger(defect_image(1, 0)), recipe)
    reviewed = inspected(trigger(defect_image(1, 1)), recipe)
    assert (good.decision.verdict, good.decision.audit) == (Verdict.PASS, False)
    assert rejected.decision.verdict is Verdict.REJECT
    assert {why.defect_type for why in rejected.decision.why if why.scorer == "head"} == {"scratch"}
    assert reviewed.decision.verdict is Verdict.REVIEW
    assert {why.authority for why in reviewed.decision.why} == {"review"}
    for inspection in (good, rejected, reviewed):
        assert inspection.trigger.seq == 7
        assert inspection.timings.inspect_ms > 0
        assert inspection.scores is not None
        assert inspection.scores.defect_maps.shape == (1, 2, 8, 8)


def test_without_the_demo_key_a_simulated_run_rejects_nothing(content: BundleContent, engine: OrtEngine) -> None:
    policy = policy_from_manifest(content.manifest, demo_key=False)
    recipe = recipe_from_bundle(content, policy, engine)
    assert inspected(trigger(defect_image(1, 0)), recipe).decision.verdict is Verdict.REVIEW


def test_a_trigger_without_a_frame_has_its_reason_as_text(recipe: Recipe) -> None:
    for reason in NotInspected:
        inspection = inspected(trigger(None, reason), recipe)
        assert inspection.decision.verdict is Verdict.NOT_INSPECTED
        assert inspection.decision.not_inspected is reason
        assert inspection.decision.why[0].text
    assert inspected(trigger(None), recipe).decision.not_inspected is NotInspected.CAMERA


def test_a_bad_frame_is_not_inspected(recipe: Recipe) -> None:
    inspection = inspected(trigger(np.zeros((20, 64), np.uint8)), recipe)
    assert inspection.decision.not_inspected is NotInspected.BAD_FRAME
    assert "64 x 20 px" in inspection.decision.why[0].text


def test_an_engine_failure_makes_the_part_not_inspected_and_nothing_else(content: BundleContent) -> None:
    policy = policy_from_manifest(content.manifest, demo_key=True)
    inspection = inspected(trigger(good_image(1)), recipe_from_bundle(content, policy, NoEngine()))
    assert inspection.decision.not_inspected is NotInspected.ENGINE
    assert inspection.decision.why[0].text == "there is no engine"


def test_tiles_are_merged_by_their_highest_score(content: BundleContent, engine: OrtEngine) -> None:
    geometry = content.manifest.geometry
    tiles = np.concatenate([tensor_from_pixels(image, geometry) for image in (good_image(1), defect_image(2, 1))])
    both = engine.infer(tiles)
    alone = engine.infer(tiles[1:])
    np.testing.assert_allclose(both.logits[1], alone.logits[0], rtol=1e-5)
    scores, _ = score_pixels(defect_image(2, 1), geometry, engine)
    assert scores.anomaly_score == pytest.approx(float(both.anomaly_score.max()), rel=1e-5)


def test_frames_of_other_kinds_and_sizes_are_inspected(recipe: Recipe) -> None:
    grey = good_image(1)
    for pixels in (
        np.repeat(grey[:, :, None], 3, axis=2),
        np.repeat(grey[:, :, None], 4, axis=2),
        grey.astype(np.uint16) * 257,
        grey[:40, :50],
    ):
        assert inspected(trigger(pixels), recipe).decision.verdict is not Verdict.NOT_INSPECTED


def test_a_damaged_graph_and_a_foreign_bank_are_refused(tmp_path: Path, content: BundleContent) -> None:

    (tmp_path / "model.onnx").write_bytes(content.graphs()[0].read_bytes()[:200])
    with pytest.raises(ProcunitError, match=r"model\.onnx"):
        OrtEngine([tmp_path / "model.onnx"], content.bank())
    with pytest.raises(ProcunitError, match="4 features per row, the graph needs 3"):
        OrtEngine(content.graphs(), np.ones((5, 5), np.float32))


def test_a_tile_of_the_wrong_size_is_an_engine_error(engine: OrtEngine) -> None:
    with pytest.raises(EngineError):
        engine.infer(np.zeros((1, 32, 32, 1), np.uint8))


def test_a_graph_without_a_head_gives_no_type_scores(tmp_path: Path) -> None:
    content = open_without_signature_check(build_tiny_bundle(tmp_path, types=()).path)
    engine = OrtEngine(content.graphs(), content.bank(), threads=1)
    policy = policy_from_manifest(content.manifest, demo_key=True)
    recipe = recipe_from_bundle(content, policy, engine)
    assert inspected(trigger(good_image(1)), recipe).decision.verdict is Verdict.PASS
    inspection = inspected(trigger(defect_image(1)), recipe)
    assert inspection.decision.verdict is Verdict.REVIEW
    assert inspection.scores is not None
    assert inspection.scores.type_scores == ()
    engine.close()
