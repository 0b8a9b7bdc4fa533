"""Whatever happens to a part, it gets exactly one verdict with a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.reader import BundleContent, open_without_signature_check
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError, Outputs
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from edge.messages import MAIN_VIEW, Frame, NotInspected, PixelArray, Scores, Timings, Trigger, Verdict, View
from edge.pipeline import Pipeline
from edge.policy import policy_from_manifest
from edge.preprocess import tensor_from_pixels
from tests.support.tiny_bundle import TINY_GEOMETRY, build_tiny_bundle, defect_image, good_image


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
def pipeline(content: BundleContent, engine: OrtEngine) -> Pipeline:
    policy = policy_from_manifest(content.manifest, demo_key=True, audit_rate=0.5)
    return Pipeline(engine, content.manifest.geometries, policy, draw=lambda: 0.9)


def trigger(pixels: PixelArray | None, reason: NotInspected | None = None) -> Trigger:
    frame = None if pixels is None else Frame("f1", "P1", 1, "2026-01-01T00:00:00Z", time.monotonic_ns(), pixels)
    views = () if frame is None else (View(MAIN_VIEW, frame),)
    return Trigger(7, "f1", "P1", 1, "2026-01-01T00:00:00Z", time.monotonic_ns(), views, reason)


def test_good_parts_pass_and_defects_get_the_verdict_of_their_authority(pipeline: Pipeline) -> None:
    good = pipeline.inspect(trigger(good_image(1)))
    rejected = pipeline.inspect(trigger(defect_image(1, 0)))
    reviewed = pipeline.inspect(trigger(defect_image(1, 1)))
    assert (good.decision.verdict, good.decision.audit) == (Verdict.PASS, False)
    assert rejected.decision.verdict is Verdict.REJECT
    assert {why.defect_type for why in rejected.decision.why if why.scorer == "head"} == {"scratch"}
    assert reviewed.decision.verdict is Verdict.REVIEW
    assert {why.authority for why in reviewed.decision.why} == {"review"}
    for inspection in (good, rejected, reviewed):
        assert inspection.trigger.seq == 7
        assert inspection.timings.inspect_ms > 0
        (of_view,) = inspection.scores
        assert of_view.view == MAIN_VIEW
        assert of_view.scores.defect_maps.shape == (1, 2, 8, 8)


def test_without_the_demo_key_a_simulated_run_rejects_nothing(content: BundleContent, engine: OrtEngine) -> None:
    policy = policy_from_manifest(content.manifest, demo_key=False)
    pipeline = Pipeline(engine, content.manifest.geometries, policy)
    assert pipeline.inspect(trigger(defect_image(1, 0))).decision.verdict is Verdict.REVIEW


def test_a_trigger_without_a_frame_has_its_reason_as_text(pipeline: Pipeline) -> None:
    for reason in NotInspected:
        inspection = pipeline.inspect(trigger(None, reason))
        assert inspection.decision.verdict is Verdict.NOT_INSPECTED
        assert inspection.decision.not_inspected is reason
        assert inspection.decision.why[0].text
    assert pipeline.inspect(trigger(None)).decision.not_inspected is NotInspected.CAMERA


def test_a_bad_frame_is_not_inspected(pipeline: Pipeline) -> None:
    inspection = pipeline.inspect(trigger(np.zeros((20, 64), np.uint8)))
    assert inspection.decision.not_inspected is NotInspected.BAD_FRAME
    assert "64 x 20 px" in inspection.decision.why[0].text


def test_an_engine_failure_makes_the_part_not_inspected_and_nothing_else(content: BundleContent) -> None:
    class FailingEngine:
        """Test double: an engine that fails on demand."""

        def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
            raise EngineError("out of memory")

        def swap_bank(self, bank: NDArray[np.float32]) -> None:
            """No bank to swap."""

        def close(self) -> None:
            """Nothing to release."""

    policy = policy_from_manifest(content.manifest, demo_key=True)
    inspection = Pipeline(FailingEngine(), content.manifest.geometries, policy).inspect(trigger(good_image(1)))
    assert inspection.decision.not_inspected is NotInspected.ENGINE
    assert inspection.decision.why[0].text == "out of memory"


LEFT_HALF = TINY_GEOMETRY.model_copy(update={"regions": (Region(width=0.5),)})


@pytest.fixture
def two_views(pipeline: Pipeline) -> Pipeline:
    """A pipeline that knows the view `left` beside `main`, of which it inspects the left half."""
    return replace(pipeline, geometries={**pipeline.geometries, "left": LEFT_HALF})


def left(pixels: PixelArray) -> PixelArray:
    """A frame of the view `left` with these pixels where it is inspected, and a defect where it is not."""
    return np.hstack([pixels, defect_image(9, 0)]).astype(np.uint8)


def part(**views: PixelArray) -> Trigger:
    """A part with a frame for each of these views."""
    frames = {name: Frame(f"f-{name}", "P1", 1, "2026-01-01T00:00:00Z", 0, pixels) for name, pixels in views.items()}
    return replace(trigger(None), views=tuple(View(name, frame) for name, frame in frames.items()))


def test_a_defect_in_any_view_decides_about_the_part(two_views: Pipeline) -> None:
    good = two_views.inspect(part(main=good_image(1), left=left(good_image(2))))
    assert good.decision.verdict is Verdict.PASS
    for views in (
        {"main": good_image(1), "left": left(defect_image(1, 0))},
        {"left": left(defect_image(1, 0)), "main": good_image(1)},
    ):
        inspection = two_views.inspect(part(**views))
        assert inspection.decision.verdict is Verdict.REJECT
        assert {why.view for why in inspection.decision.why} == {"left"}
        assert [of_view.view for of_view in inspection.scores] == list(views)
    assert two_views.inspect(part(main=defect_image(1, 0), left=left(good_image(1)))).decision.verdict is Verdict.REJECT


def test_each_view_is_seen_through_its_own_geometry(two_views: Pipeline, engine: OrtEngine) -> None:
    image = defect_image(3, 1)
    by_name = {s.view: s.scores for s in two_views.inspect(part(main=image, left=image)).scores}
    for name, geometry in two_views.geometries.items():
        expected, _ = score_pixels(image, geometry, engine)
        assert (by_name[name].type_scores, by_name[name].anomaly_score) == (
            expected.type_scores,
            expected.anomaly_score,
        )
    assert by_name["main"].anomaly_score != by_name["left"].anomaly_score


def test_the_times_are_those_of_all_views_together(two_views: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter((Timings(0, 1, 20, 0), Timings(0, 2, 30, 0)))

    def timed(pixels: PixelArray, geometry: Geometry, engine: OrtEngine) -> tuple[Scores, Timings]:
        return score_pixels(pixels, geometry, engine)[0], next(calls)

    monkeypatch.setattr("edge.pipeline.score_pixels", timed)
    timings = two_views.inspect(part(main=good_image(1), left=left(good_image(2)))).timings
    assert (timings.preprocess_ms, timings.engine_ms) == (3, 50)


@pytest.mark.parametrize("defect", [good_image(1), defect_image(1, 0)])
def test_a_part_that_lacks_a_view_is_not_inspected(two_views: Pipeline, defect: PixelArray) -> None:
    for present, absent in (("main", "left"), ("left", "main")):
        inspection = two_views.inspect(part(**{present: defect}))
        assert inspection.decision.not_inspected is NotInspected.CAMERA
        assert f"no frame of view {absent}" in inspection.decision.why[0].text
        assert inspection.scores == ()


def test_a_view_that_nobody_taught_is_a_bad_frame_and_named(pipeline: Pipeline) -> None:
    for views in ({"main": good_image(1), "top": good_image(2)}, {"top": good_image(2)}):
        decision = pipeline.inspect(part(**views)).decision
        assert decision.not_inspected is NotInspected.BAD_FRAME
        assert decision.why[0].text == "the frame is of view top, which the bundle does not know; it knows main"


def test_two_frames_of_one_view_are_not_taken_for_two_views(two_views: Pipeline) -> None:
    (main,) = part(main=good_image(1)).views
    decision = two_views.inspect(replace(trigger(None), views=(main, main))).decision
    assert decision.not_inspected is NotInspected.BAD_FRAME
    assert decision.why[0].text == "2 frames are of view main, not one"


def test_a_bad_frame_among_several_is_named(two_views: Pipeline) -> None:
    decision = two_views.inspect(part(main=good_image(1), left=np.zeros((20, 64), np.uint8))).decision
    assert decision.not_inspected is NotInspected.BAD_FRAME
    assert decision.why[0].text.startswith("view left: ")


def test_tiles_are_merged_by_their_highest_score(content: BundleContent, engine: OrtEngine) -> None:
    geometry = content.manifest.geometry
    tiles = np.concatenate([tensor_from_pixels(image, geometry) for image in (good_image(1), defect_image(2, 1))])
    both = engine.infer(tiles)
    alone = engine.infer(tiles[1:])
    np.testing.assert_allclose(both.logits[1], alone.logits[0], rtol=1e-5)
    scores, _ = score_pixels(defect_image(2, 1), geometry, engine)
    assert scores.anomaly_score == pytest.approx(float(both.anomaly_score.max()), rel=1e-5)


def test_frames_of_other_kinds_and_sizes_are_inspected(pipeline: Pipeline) -> None:
    grey = good_image(1)
    for pixels in (
        np.repeat(grey[:, :, None], 3, axis=2),
        np.repeat(grey[:, :, None], 4, axis=2),
        grey.astype(np.uint16) * 257,
        grey[:40, :50],
    ):
        assert pipeline.inspect(trigger(pixels)).decision.verdict is not Verdict.NOT_INSPECTED


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
    pipeline = Pipeline(engine, content.manifest.geometries, policy)
    assert pipeline.inspect(trigger(good_image(1))).decision.verdict is Verdict.PASS
    inspection = pipeline.inspect(trigger(defect_image(1)))
    assert inspection.decision.verdict is Verdict.REVIEW
    assert inspection.scores[0].scores.type_scores == ()
    engine.close()
