"""The golden gate with a real bundle and the real engine, and with engines that drift, flip verdicts and fail."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.calibrate import calibrate_run
from edge.bundle.keys import signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import MANIFEST, GoldenSet, ManifestBody
from edge.bundle.reader import Bundle, open_bundle
from edge.bundle.sealing import seal
from edge.engine.flip_rate import MAX_FLIP_RATE, excesses_from_bundle
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError, Outputs, outputs_from_arrays
from edge.errors import ProcunitError
from export.bundle_from_run import bundle_from_run
from export.signing import demo_key_from_run
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.tiny_run import build_tiny_run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tiny = build_tiny_bundle(tmp_path_factory.mktemp("gate"), types=("scratch", "dent"))
    return open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    run = build_tiny_run(tmp_path_factory.mktemp("calibrated"))
    calibrate_run(run.path)
    return bundle_from_run(run.path, run.path.parent / "bundle", demo_key_from_run(run.path))


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[OrtEngine]:
    engine = OrtEngine(bundle.graphs(), bundle.bank(), threads=1)
    yield engine
    engine.close()


class ChangedEngine:
    """The real engine with its outputs changed: a test double of an engine that drifts."""

    def __init__(self, engine: OrtEngine, *, logits: float = 0.0, anomaly: float = 0.0) -> None:
        self._engine = engine
        self._logits, self._anomaly = np.float32(logits), np.float32(anomaly)

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        outputs = self._engine.infer(tiles_u8)
        logits = outputs.logits.copy()
        logits[:, 1:2] += self._logits
        return replace(outputs, logits=logits, anomaly_score=outputs.anomaly_score + self._anomaly)

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        self._engine.swap_bank(bank)

    def close(self) -> None:
        self._engine.close()


class ReshapedEngine(ChangedEngine):
    """The real engine with outputs of another number of tiles: a test double of an engine of another bundle."""

    tiles = 2

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        outputs = self._engine.infer(tiles_u8)
        return Outputs(
            *(
                np.repeat(part, self.tiles, axis=0)
                for part in (outputs.logits, outputs.defect_maps, outputs.anomaly_map, outputs.anomaly_score)
            )
        )


class FailingEngine:
    """A test double of an engine that fails on every part."""

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        raise EngineError(f"out of memory for {len(tiles_u8)} tiles")

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Nothing to release."""


def test_the_reference_engine_passes_without_drift(bundle: Bundle, engine: OrtEngine) -> None:
    result = check_golden(bundle, engine)
    assert result.passed, str(result)
    assert len(result.checks) == 4
    assert max(check.drift for check in result.checks) < 1e-3
    assert "4 golden frames, worst drift" in str(result)
    assert result.flip_rate is None
    assert "has no calibration scores" in str(result)


@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False), (-1.1, False)])
def test_the_drift_of_a_type_is_in_its_spreads_on_good_parts(
    bundle: Bundle, engine: OrtEngine, share: float, passes: bool
) -> None:
    spread = bundle.manifest.types[1].limit.spread
    result = check_golden(bundle, ChangedEngine(engine, logits=share * tolerance_of(bundle) * spread))
    assert result.passed is passes, str(result)
    worst = max(result.checks, key=lambda check: check.drift)
    assert worst.score == "dent"
    assert worst.drift == pytest.approx(abs(share) * tolerance_of(bundle), rel=0.02)
    if not passes:
        assert f"4 of 4 golden frames fail, the worst {worst.file}: the score 'dent' drifts by 0.11 spreads" in str(
            result
        )


@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False)])
def test_the_drift_of_the_anomaly_is_in_its_spreads(
    bundle: Bundle, engine: OrtEngine, share: float, passes: bool
) -> None:
    assert bundle.manifest.anomaly is not None
    spread = bundle.manifest.anomaly.spread
    result = check_golden(bundle, ChangedEngine(engine, anomaly=share * tolerance_of(bundle) * spread))
    assert result.passed is passes, str(result)
    assert {check.score for check in result.checks} == {"anomaly"}


def test_a_flipped_decision_fails_even_within_the_tolerance(
    bundle: Bundle, engine: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = bundle.golden()
    good = golden.frames[0]
    limit = bundle.manifest.types[1].limit
    near = limit.model_copy(update={"threshold": good.type_scores[1] * (1 + 1e-6)})
    types = (bundle.manifest.types[0], bundle.manifest.types[1].model_copy(update={"limit": near}))
    nearby = replace(bundle, manifest=bundle.manifest.model_copy(update={"types": types}))
    monkeypatch.setattr(Bundle, "golden", lambda _: GoldenSet(tolerance=0.1, frames=(good,)))
    assert check_golden(nearby, engine).passed
    result = check_golden(nearby, ChangedEngine(engine, logits=0.05 * limit.spread))
    assert not result.passed
    assert f"the worst {good.file}: the verdict is review instead of pass" in str(result)


def test_a_score_that_is_not_finite_fails(bundle: Bundle, engine: OrtEngine) -> None:
    for changed in (ChangedEngine(engine, logits=math.nan), ChangedEngine(engine, anomaly=math.inf)):
        result = check_golden(bundle, changed)
        assert not result.passed
        assert "a score is not a finite number" in str(result)


def test_an_engine_that_fails_does_not_pass(bundle: Bundle) -> None:
    result = check_golden(bundle, FailingEngine())
    assert not result.passed
    assert "no scores: out of memory" in str(result)


@pytest.mark.parametrize(
    ("tiles", "problem"), [(2, "outputs of 2 tiles instead of 1"), (0, "no scores: the engine returned no tiles")]
)
def test_an_engine_whose_outputs_have_another_shape_does_not_pass(
    bundle: Bundle, engine: OrtEngine, tiles: int, problem: str
) -> None:
    reshaped = ReshapedEngine(engine)
    reshaped.tiles = tiles
    result = check_golden(bundle, reshaped)
    assert not result.passed
    assert problem in str(result)


def test_with_calibration_scores_the_gate_predicts_the_flips(calibrated: Bundle) -> None:
    engine = OrtEngine(calibrated.graphs(), calibrated.bank(), threads=1)
    faithful = check_golden(calibrated, engine)
    assert faithful.passed
    assert faithful.flip_rate is not None
    assert faithful.flip_rate < MAX_FLIP_RATE / 100
    assert "flips in 1000 parts predicted (1 allowed)" in str(faithful)
    limit = calibrated.manifest.types[1].limit
    drifting = check_golden(calibrated, ChangedEngine(engine, logits=0.3 * limit.spread))
    assert drifting.flip_rate is not None
    assert drifting.flip_rate > MAX_FLIP_RATE
    assert drifting.worst_drifts[calibrated.manifest.types[1].name] == pytest.approx(0.3, rel=0.02)


def test_too_many_predicted_flips_fail_though_every_frame_passes(
    calibrated: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OrtEngine(calibrated.graphs(), calibrated.bank(), threads=1)
    wide = calibrated.golden().model_copy(update={"tolerance": 0.5})
    monkeypatch.setattr(Bundle, "golden", lambda _: wide)
    limit = calibrated.manifest.types[1].limit
    result = check_golden(calibrated, ChangedEngine(engine, logits=0.15 * limit.spread))
    assert all(check.problem is None for check in result.checks)
    assert not result.passed
    assert "flips in 1000 parts predicted (1 allowed)" in str(result)


def test_calibration_scores_of_other_types_are_refused(calibrated: Bundle, engine: OrtEngine) -> None:
    fewer = calibrated.manifest.model_copy(update={"types": calibrated.manifest.types[:1]})
    with pytest.raises(ProcunitError, match="do not fit the bundle's types"):
        excesses_from_bundle(replace(calibrated, manifest=fewer))


def test_without_golden_frames_nothing_passes(
    bundle: Bundle, engine: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "golden", lambda _: GoldenSet(tolerance=0.1, frames=()))
    result = check_golden(bundle, engine)
    assert not result.passed
    assert "no golden frames" in str(result)


def test_a_bundle_of_good_parts_alone_passes_too(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path, types=())
    bundle = open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))
    engine = OrtEngine(bundle.graphs(), bundle.bank(), threads=1)
    assert check_golden(bundle, engine).passed
    assert not check_golden(bundle, ChangedEngine(engine, anomaly=1.0)).passed


def tolerance_of(bundle: Bundle) -> float:
    return bundle.golden().tolerance


def _slow_graph(source: Path, path: Path, products: int) -> None:
    """The tiny graph with a chain of large matrix products that depend on the image; none of it is control flow."""
    model = onnx.load(source)
    nodes = [
        helper.make_node("ReduceMean", ["bright"], ["mean_grey"], keepdims=0),
        helper.make_node("Expand", ["mean_grey", "large"], ["product_0"]),
        *(helper.make_node("MatMul", [f"product_{n}"] * 2, [f"product_{n + 1}"]) for n in range(products)),
        helper.make_node("ReduceMean", [f"product_{products}"], ["mean_product"], keepdims=0),
        helper.make_node("Mul", ["mean_product", "nothing"], ["zero"]),
        helper.make_node("Add", ["score_before", "zero"], ["anomaly_score"]),
    ]
    for node in model.graph.node:
        node.output[:] = ["score_before" if name == "anomaly_score" else name for name in node.output]
    model.graph.node.extend(nodes)
    for name, value in (("large", np.array([1200, 1200], np.int64)), ("nothing", np.float32(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, str(path))


@pytest.mark.parametrize("limit", ["FRAME_LIMIT_S", "GATE_LIMIT_S"])
def test_a_graph_that_takes_for_ever_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Each frame would take minutes: ONNX Runtime ends it between two operators."""
    tiny = build_tiny_bundle(tmp_path)
    _slow_graph(tiny.path / "model.onnx", tiny.path / "model.onnx", products=5_000)
    body = ManifestBody.model_validate(
        {k: v for k, v in json.loads((tiny.path / MANIFEST).read_bytes()).items() if k != "files"}
    )
    slow = seal(tiny.path, body, signing_key_from_file(tiny.private_key))
    engine = OrtEngine(slow.graphs(), slow.bank(), threads=1)
    monkeypatch.setattr(f"edge.engine.golden_gate.{limit}", 0.5)
    started_s = time.monotonic()
    with pytest.raises(EngineError, match=r"the golden frame golden/.*\.png was not done within"):
        check_golden(slow, engine)
    assert time.monotonic() - started_s < 10
    with pytest.raises(EngineError, match="interrupted"):
        engine.infer(np.zeros((1, 128, 128, 1), np.uint8))
    engine.close()


def test_an_engine_that_cannot_be_interrupted_fails_after_its_frame(
    bundle: Bundle, engine: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(ChangedEngine):
        def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
            time.sleep(0.1)
            return super().infer(tiles_u8)

    monkeypatch.setattr("edge.engine.golden_gate.FRAME_LIMIT_S", 0.05)
    with pytest.raises(EngineError, match="not done within"):
        check_golden(bundle, Slow(engine))


@pytest.mark.parametrize("spread", [5e-324, 1e-300])
def test_a_drift_that_is_no_number_never_passes(bundle: Bundle, engine: OrtEngine, spread: float) -> None:
    limit = bundle.manifest.types[1].limit.model_copy(update={"spread": spread})
    types = (bundle.manifest.types[0], bundle.manifest.types[1].model_copy(update={"limit": limit}))
    wild = replace(bundle, manifest=bundle.manifest.model_copy(update={"types": types}))
    assert not check_golden(wild, ChangedEngine(engine, logits=0.01)).passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"anomaly_map": np.zeros((1, 64), np.float32)},
        {"anomaly_score": np.zeros((1, 1), np.float32)},
        {"anomaly_score": np.zeros(1, np.float64)},
        {"logits": np.zeros(1, np.float32)},
        {"defect_maps": np.zeros((1, 2, 8), np.float32)},
        {"logits": np.zeros((2, 2), np.float32)},
    ],
)
def test_outputs_of_another_shape_or_type_are_an_engine_error(wrong: dict[str, NDArray[np.float32]]) -> None:
    right = {
        "logits": np.zeros((1, 2), np.float32),
        "defect_maps": np.zeros((1, 2, 8, 8), np.float32),
        "anomaly_map": np.zeros((1, 8, 8), np.float32),
        "anomaly_score": np.zeros(1, np.float32),
    }
    assert outputs_from_arrays(right).logits.shape == (1, 2)
    with pytest.raises(EngineError, match="its output"):
        outputs_from_arrays({**right, **wrong})
