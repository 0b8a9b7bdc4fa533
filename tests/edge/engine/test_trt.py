"""The TensorRT engine on doubles of TensorRT and of the CUDA driver: its calls and results, not its speed.

The numbers are real: the double runs the ONNX graph, and they are compared with ONNX Runtime on the same graph.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from numpy.typing import NDArray

from edge.bundle.reader import file_entry_from_path
from edge.bundle.sealed_file import SealedFile
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError, EngineLostError, Outputs, UnfitPlanError
from edge.engine.trt import TrtEngine
from edge.engine.trt_plans import engine_from_plan
from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from tests.doubles.cuda_double import CudaDouble
from tests.doubles.pycuda_double import cuda_over
from tests.doubles.tensorrt_double import TensorrtDouble, write_plan
from tests.support.tiny_bundle import tiny_bank
from tests.support.tiny_graph import FEATURES, SIDE_PX, write_tiny_graph

TILES, TYPES, MOST_ROWS = 2, 2, 600
GEOMETRY = Geometry(
    input_height_px=SIDE_PX,
    input_width_px=SIDE_PX,
    channels=1,
    regions=(Region(), Region(x=0.0, y=0.0, width=0.5, height=0.5)),
)


@dataclass
class Device:
    """The doubles, a plan on the disk and the graph that it contains."""

    driver: CudaDouble
    tensorrt: TensorrtDouble
    plans: tuple[Path, ...]
    graph: Path

    def engine(self, bank: NDArray[np.float32] | None = None, types: int = TYPES) -> TrtEngine:
        """The TensorRT engine with the doubles."""
        return TrtEngine(
            self.plans,
            bank_of(0) if bank is None else bank,
            geometry=GEOMETRY,
            types=types,
            library=self.tensorrt.library(),
            cuda=cuda_over(self.driver),
        )

    def check_released(self) -> None:
        """Everything was released, once, in the right order."""
        gc.collect()
        assert self.driver.held == {}
        assert self.driver.breaches == []
        assert self.tensorrt.alive == 0


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_tiny_graph(path, TYPES)
    return path


@pytest.fixture
def device(graph: Path, tmp_path: Path) -> Iterator[Device]:
    device = _device(graph, tmp_path)
    yield device
    device.check_released()


def _device(graph: Path, directory: Path) -> Device:
    driver = CudaDouble()
    plan = write_plan(directory / "engine-0.plan", graph, TILES, MOST_ROWS)
    return Device(driver, TensorrtDouble(driver), (plan,), graph)


def bank_of(number: int, rows: int = 40) -> NDArray[np.float32]:
    """Banks so different that a score shows which one was searched."""
    shift = np.append(np.full(FEATURES, number / 4), 0)
    return np.asarray(tiny_bank()[number : number + rows] + shift, np.float32)


def tiles_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (TILES, SIDE_PX, SIDE_PX, 1), np.uint8)


def assert_same(outputs: Outputs, expected: Outputs) -> None:
    for name in ("logits", "defect_maps", "anomaly_map", "anomaly_score"):
        np.testing.assert_array_equal(getattr(outputs, name), getattr(expected, name))


def test_its_outputs_equal_onnx_runtimes(device: Device) -> None:
    reference = OrtEngine([device.graph], bank_of(0), threads=1)
    engine = device.engine()
    results = [engine.infer(tiles_of(seed)) for seed in range(5)]
    for seed, outputs in enumerate(results):
        assert_same(outputs, reference.infer(tiles_of(seed)))
    assert device.driver.calls["cuGraphLaunch"] == 5
    engine.close()
    engine.close()
    assert_same(results[0], reference.infer(tiles_of(0)))


def test_a_plan_exchanged_after_it_was_found_in_the_cache_is_unfit_and_never_loaded(device: Device) -> None:
    (path,) = device.plans
    plan = SealedFile(path.parent, path.name, file_entry_from_path(path))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UnfitPlanError, match=r"sha256 differs.*procunit engine build"):
        engine_from_plan(plan, device.tensorrt.library())


def test_one_copy_in_one_launch_one_copy_out_one_wait(device: Device) -> None:
    engine = device.engine()
    before = device.driver.calls.copy()
    engine.infer(tiles_of(0))
    assert device.driver.calls - before == {
        "cuCtxPushCurrent": 1,
        "cuMemcpyHtoDAsync": 1,
        "cuGraphLaunch": 1,
        "cuMemcpyDtoHAsync": 1,
        "cuStreamSynchronize": 1,
    }
    engine.close()


def test_on_a_jetson_the_frame_is_not_copied(device: Device) -> None:
    device.driver.integrated = True
    engine = device.engine()
    before = device.driver.calls["cuMemcpyHtoDAsync"]
    assert_same(engine.infer(tiles_of(3)), OrtEngine([device.graph], bank_of(0)).infer(tiles_of(3)))
    assert device.driver.calls["cuMemcpyHtoDAsync"] == before
    engine.close()


def test_classifier_and_extractor_run_in_one_graph(device: Device, tmp_path: Path) -> None:
    halves = {
        "classifier": (["image"], ["logits", "defect_maps"]),
        "extractor": (["image", "bank"], ["anomaly_map", "anomaly_score"]),
    }
    plans = []
    for name, (inputs, outputs) in halves.items():
        onnx.utils.extract_model(str(device.graph), str(tmp_path / f"{name}.onnx"), inputs, outputs)
        plans.append(write_plan(tmp_path / f"{name}.plan", tmp_path / f"{name}.onnx", TILES, MOST_ROWS))
    device.plans = tuple(plans)
    engine = device.engine()
    assert_same(engine.infer(tiles_of(1)), OrtEngine([device.graph], bank_of(0)).infer(tiles_of(1)))
    assert device.driver.calls["cuGraphLaunch"] == 1
    engine.close()


def test_without_types_there_is_no_head(device: Device, tmp_path: Path) -> None:
    write_tiny_graph(tmp_path / "bare.onnx", 0)
    device.plans = (write_plan(tmp_path / "bare.plan", tmp_path / "bare.onnx", TILES, MOST_ROWS),)
    engine = device.engine(types=0)
    assert engine.infer(tiles_of(1)).logits.shape == (TILES, 0)
    engine.close()


@pytest.mark.slow
def test_ten_thousand_inferences_and_swaps_use_the_current_bank_and_no_more_memory(device: Device) -> None:
    banks = [bank_of(number, rows) for number, rows in ((0, 20), (1, 20), (2, 35))]
    image = tiles_of(7)
    expected = [OrtEngine([device.graph], bank, threads=1).infer(image).anomaly_score for bank in banks]
    engine = device.engine(banks[0])
    engine.infer(image)
    held, current = device.driver.held, 0
    order = np.random.default_rng(0)
    for _ in range(10_000):
        if order.random() < 0.05:
            current = int(order.integers(len(banks)))
            engine.swap_bank(banks[current])
        np.testing.assert_array_equal(engine.infer(image).anomaly_score, expected[current])
    assert device.driver.held == held
    engine.close()


@pytest.mark.slow
def test_any_order_of_swaps_and_inferences(graph: Path, tmp_path: Path) -> None:
    class Swaps(RuleBasedStateMachine):
        """Valid and invalid banks of any size between inferences, and a GPU that fails at any call."""

        def __init__(self) -> None:
            super().__init__()
            self.device = _device(graph, tmp_path)
            self.bank = bank_of(0)
            self.engine = self.device.engine()

        @rule(number=st.integers(0, 5), rows=st.integers(1, 50))
        def swap(self, number: int, rows: int) -> None:
            self.engine.swap_bank(bank_of(number, rows))
            self.bank = bank_of(number, rows)

        @rule(rows=st.sampled_from([0, MOST_ROWS + 1]), columns=st.sampled_from([FEATURES + 1, FEATURES + 2]))
        def bad_bank(self, rows: int, columns: int) -> None:
            with pytest.raises(ProcunitError):
                self.engine.swap_bank(np.ones((rows, columns), np.float32))

        @rule(call=st.sampled_from(["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]))
        def failing_part(self, call: str) -> None:
            if call == "cuGraphLaunch" and not self.device.driver.graphs:
                return
            self.device.driver.fail(call)
            with pytest.raises(EngineError):
                self.engine.infer(tiles_of(0))

        @rule(seed=st.integers(0, 9))
        def infer(self, seed: int) -> None:
            expected = OrtEngine([graph], self.bank, threads=1).infer(tiles_of(seed))
            assert_same(self.engine.infer(tiles_of(seed)), expected)

        def teardown(self) -> None:
            self.engine.close()
            self.device.check_released()

    run_state_machine_as_test(Swaps, settings=settings(max_examples=25, stateful_step_count=12, deadline=None))


def test_the_graph_is_captured_again_only_for_another_number_of_rows(device: Device) -> None:
    engine = device.engine(bank_of(0))
    engine.swap_bank(bank_of(1))
    assert device.driver.calls["cuGraphInstantiateWithFlags"] == 1
    engine.swap_bank(bank_of(1, rows=30))
    assert device.driver.calls["cuGraphInstantiateWithFlags"] == 2
    assert len(device.driver.graphs) == 1
    engine.close()


@pytest.mark.parametrize("failing", ["cuMemcpyHtoDAsync", "cuGraphInstantiateWithFlags", "cuStreamSynchronize"])
def test_a_swap_that_fails_half_way_never_gives_results_of_a_mixed_bank(
    failing: str, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    engine = device.engine(bank_of(0))
    device.driver.fail(failing)
    if failing == "cuGraphInstantiateWithFlags":  # the engine goes on without a graph
        engine.swap_bank(bank_of(3, rows=30))
        expected = OrtEngine([device.graph], bank_of(3, rows=30)).infer(tiles_of(0))
        assert_same(engine.infer(tiles_of(0)), expected)
        engine.swap_bank(bank_of(4, rows=20))
        assert caplog.text.count("without a CUDA graph") == 1
    else:
        with pytest.raises(EngineLostError, match="half-way"):
            engine.swap_bank(bank_of(3, rows=30))
        with pytest.raises(EngineLostError, match="opened again"):
            engine.infer(tiles_of(0))
    engine.close()


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.tensorrt.captures = False
    engine = device.engine()
    assert_same(engine.infer(tiles_of(2)), OrtEngine([device.graph], bank_of(0)).infer(tiles_of(2)))
    engine.swap_bank(bank_of(1, rows=9))
    assert_same(engine.infer(tiles_of(2)), OrtEngine([device.graph], bank_of(1, rows=9)).infer(tiles_of(2)))
    assert caplog.text.count("without a CUDA graph") == 1
    assert device.driver.calls["cuGraphLaunch"] == 0
    engine.close()


def test_an_error_on_one_part_affects_only_that_part(device: Device) -> None:
    engine = device.engine()
    device.driver.fail("cuGraphLaunch")
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        engine.infer(tiles_of(0))
    assert not isinstance(caught.value, EngineLostError)
    with pytest.raises(EngineError, match="uint8"):
        engine.infer(tiles_of(0)[:1])
    assert_same(engine.infer(tiles_of(0)), OrtEngine([device.graph], bank_of(0)).infer(tiles_of(0)))
    engine.close()


def test_after_a_gpu_failure_the_engine_is_lost_and_a_new_one_can_be_opened(device: Device) -> None:
    engine = device.engine()
    engine.infer(tiles_of(0))
    device.driver.break_gpu()
    with pytest.raises(EngineLostError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        engine.infer(tiles_of(0))
    engine.close()
    device.check_released()
    device.driver.sticky = 0
    again = device.engine()
    assert_same(again.infer(tiles_of(0)), OrtEngine([device.graph], bank_of(0)).infer(tiles_of(0)))
    again.close()


def _calls_of_construction(graph: Path, directory: Path) -> list[tuple[str, int]]:
    device = _device(graph, directory)
    engine = device.engine()
    calls = [(call, nth) for call, count in device.driver.calls.items() for nth in range(1, count + 1)]
    engine.close()
    return calls


@pytest.mark.slow
def test_construction_that_fails_at_any_call_leaves_nothing_behind(graph: Path, tmp_path: Path) -> None:
    capture = {"cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy"}
    for broken in (False, True):
        for call, nth in _calls_of_construction(graph, tmp_path):
            device = _device(graph, tmp_path)
            device.driver.fail(call, nth=nth)
            device.driver.breaks = broken
            try:
                device.engine().close()
            except (ProcunitError, EngineLostError):
                pass
            else:
                assert call in capture, (call, nth)
            device.check_released()


def test_too_little_memory_for_activations_is_a_readable_error(device: Device) -> None:
    device.tensorrt.lacks_memory = True
    with pytest.raises(
        ProcunitError, match=r"no memory for the engine's activations.*out of memory.*End other programs"
    ):
        device.engine()


def test_an_engine_that_does_not_run_is_a_readable_error(device: Device) -> None:
    device.tensorrt.fails_to_run = True
    with pytest.raises(ProcunitError, match=r"TensorRT did not run.*enqueueV3"):
        device.engine()


def test_a_missing_gpu_is_a_readable_error(device: Device) -> None:
    device.driver.devices = 0
    with pytest.raises(ProcunitError, match="CUDA finds no GPU"):
        device.engine()


def _truncated(plan: Path, graph: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-200])


def _foreign(plan: Path, graph: Path) -> None:
    plan.write_bytes(b"ftrt" + bytes(60))


def _empty(plan: Path, graph: Path) -> None:
    plan.write_bytes(b"")


def _of_another_version(plan: Path, graph: Path) -> None:
    write_plan(plan, graph, TILES, MOST_ROWS, version="10.13.3")


def _for_other_tiles(plan: Path, graph: Path) -> None:
    write_plan(plan, graph, TILES + 1, MOST_ROWS)


def _for_a_smaller_bank(plan: Path, graph: Path) -> None:
    write_plan(plan, graph, TILES, most_rows=8)


def _of_other_types(plan: Path, graph: Path) -> None:
    write_tiny_graph(plan.with_suffix(".onnx"), TYPES + 1)
    write_plan(plan, plan.with_suffix(".onnx"), TILES, MOST_ROWS)


def _without_types(plan: Path, graph: Path) -> None:
    write_tiny_graph(plan.with_suffix(".onnx"), 0)
    write_plan(plan, plan.with_suffix(".onnx"), TILES, MOST_ROWS)


def _of_another_size(plan: Path, graph: Path) -> None:
    model = onnx.load(str(graph))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2 * SIDE_PX
    onnx.save(model, str(plan.with_suffix(".onnx")))
    write_plan(plan, plan.with_suffix(".onnx"), TILES, MOST_ROWS)


def _missing(plan: Path, graph: Path) -> None:
    plan.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncated, r"damaged or was made by another version.*truncated.*procunit engine build"),
        (_foreign, r"damaged or was made by another version.*magicTag.*procunit engine build"),
        (_empty, r"damaged or was made by another version"),
        (_missing, r"No such file.*procunit engine build"),
        (_of_another_version, r"10\.3\.0 cannot load.*generated by 10\.13\.3"),
        (_for_other_tiles, r"not built for 'image' of \(2, 128, 128, 1\)"),
        (_for_a_smaller_bank, r"the bank has 40 rows, the engine was built for 1 to 8"),
        (_of_other_types, r"'(logits|defect_maps)' is .* for 2 tiles and 2 defect types"),
        (_without_types, r"its outputs anomaly_map, anomaly_score"),
        (_of_another_size, r"its image is \(-1, 256, 128, 1\) instead of \(2, 128, 128, 1\)"),
    ],
)
def test_a_plan_that_does_not_fit_is_a_readable_error(
    damage: Callable[[Path, Path], None], message: str, device: Device
) -> None:
    damage(device.plans[0], device.graph)
    with pytest.raises(ProcunitError, match=message) as caught:
        device.engine()
    assert caught.value.where == str(device.plans[0])


def test_a_bank_of_another_width_is_a_readable_error(device: Device) -> None:
    with pytest.raises(ProcunitError, match=r"the bank has 4 features per row, the engine needs 3"):
        device.engine(np.ones((5, 5), np.float32))


def test_another_thread_must_not_use_it_and_its_own_ends_without_a_context(device: Device) -> None:
    engines: list[TrtEngine] = []
    done = threading.Event()

    def owner() -> None:
        engines.append(device.engine())
        assert not device.driver.is_current
        done.wait(10)
        engines[0].close()

    thread = threading.Thread(target=owner)
    thread.start()
    while not engines:
        pass
    with pytest.raises(RuntimeError, match="thread"):
        engines[0].infer(tiles_of(0))
    done.set()
    thread.join()


def test_run_resident_copies_nothing(device: Device) -> None:
    engine = device.engine()
    engine.infer(tiles_of(0))
    before = device.driver.calls.copy()
    engine.run_resident(3)
    assert device.driver.calls - before == {"cuCtxPushCurrent": 1, "cuGraphLaunch": 3, "cuStreamSynchronize": 1}
    engine.close()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
