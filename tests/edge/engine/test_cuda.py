"""The `Cuda` object with a double of the CUDA driver; its use by the engine is tested with the engine."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edge.engine import cuda, cuda_graph
from edge.engine.cuda import cuda_from_system
from edge.engine.cuda_graph import CudaCallError, Libcuda, captured_graph
from edge.engine.protocol import EngineError, EngineLostError
from edge.errors import ProcunitError
from tests.doubles.cuda_double import NO_DEVICE, CudaDouble
from tests.doubles.pycuda_double import cuda_over, pycuda_over


@pytest.fixture
def driver() -> CudaDouble:
    return CudaDouble()


def test_written_data_is_read_back_and_everything_is_released(driver: CudaDouble) -> None:
    gpu = cuda_over(driver)
    with gpu.current():
        buffer = gpu.buffer(16, mapped=False)
        gpu.write(buffer.address, np.arange(4, dtype=np.float32))
        gpu.download(buffer)
        gpu.synchronise()
        assert buffer.host.view(np.float32).tolist() == [0, 1, 2, 3]
        assert gpu.memory_bytes()[0] < gpu.memory_bytes()[1]
    gpu.close()
    gpu.close()
    assert driver.held == {}
    assert driver.breaches == []


def test_the_double_records_invalid_memory_use(driver: CudaDouble) -> None:
    gpu = cuda_over(driver)
    with gpu.current():
        address = gpu.device_memory(8)
        gpu.write(address, np.zeros(3, np.float32))
        assert "are not the GPU's" in driver.breaches.pop()
        driver.release(address)
    gpu.close()
    assert "freed twice" in driver.breaches.pop()


def test_a_lost_context_is_a_lost_engine(driver: CudaDouble) -> None:
    gpu = cuda_over(driver)
    driver.fail("cuCtxPushCurrent", code=709)
    with pytest.raises(EngineLostError, match="context is lost"), gpu.current():
        pass
    gpu.close()
    with pytest.raises(EngineLostError, match="closed before"), gpu.current():
        pass
    assert driver.held == {}


@pytest.mark.parametrize(
    ("call", "code"), [("cuInit", NO_DEVICE), ("cuDevicePrimaryCtxRetain", 2), ("cuStreamCreate", 2)]
)
def test_a_gpu_that_cannot_be_opened_is_a_readable_error(driver: CudaDouble, call: str, code: int) -> None:
    driver.fail(call, code=code)
    with pytest.raises(ProcunitError, match=r"nvidia-smi.*engine\.kind to ort"):
        cuda_over(driver)
    assert driver.held == {}


def test_work_that_raises_while_it_is_captured_leaves_the_stream_usable(driver: CudaDouble) -> None:
    gpu = cuda_over(driver)
    libcuda = Libcuda(driver.function)

    def refuse() -> None:
        raise ZeroDivisionError

    with gpu.current():
        with pytest.raises(ZeroDivisionError):
            captured_graph(libcuda, gpu.stream, refuse)
        graph = captured_graph(libcuda, gpu.stream, lambda: driver.put(gpu.stream, lambda: None))
        graph.launch()
        gpu.synchronise()
        graph.close()
    gpu.close()
    assert driver.held == {}


def test_an_error_has_the_drivers_name_for_it(driver: CudaDouble) -> None:
    driver.fail("cuCtxSynchronize", code=700)
    with pytest.raises(CudaCallError, match=r"cuCtxSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        Libcuda(driver.function).call("cuCtxSynchronize")


def test_a_missing_driver_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "LIBRARY_FILE", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ProcunitError, match=r"driver cannot be loaded.*JetPack"):
        cuda_from_system()


def test_a_missing_pycuda_is_a_readable_error(monkeypatch: pytest.MonkeyPatch, driver: CudaDouble) -> None:
    monkeypatch.setattr(cuda, "libcuda_from_system", lambda: Libcuda(driver.function))
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(ProcunitError, match=r"pycuda cannot be loaded.*build-essential.*pip install"):
        cuda_from_system()
    monkeypatch.setitem(sys.modules, "pycuda", pycuda_over(driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_over(driver))
    gpu = cuda_from_system()
    driver.fail("cuMemAlloc")
    with pytest.raises(EngineError, match="out of memory"), gpu.current():
        gpu.device_memory(1)
    gpu.close()
    assert driver.held == {}
