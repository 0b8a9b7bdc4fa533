"""The GPU as one thread holds it, by pycuda: context, stream, memory and copies; CUDA errors become `EngineError`.

The primary context is shared with all other CUDA code of the process. It is current only inside `Cuda.current()`:
pycuda aborts the process if a thread ends with a context on its stack, and frees an object only in the thread that made
it. Source: pycuda 2026.1, src/cpp/cuda.hpp.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import byref, c_void_p
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.engine.cuda_graph import CudaCallError, CudaGraph, Libcuda, captured_graph, libcuda_from_system
from edge.engine.protocol import EngineError, EngineLostError
from edge.errors import ProcunitError

_STREAM_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream; pycuda has no name for it."""
_NO_GPU_REMEDY = "Check with nvidia-smi that the driver sees the GPU and it has memory left; or set engine.kind to ort"


class _Freeable(Protocol):
    def free(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Buffer:
    """Page-locked host memory, uint8 [bytes], and the GPU address of its copy; `shared` if both are the same memory."""

    host: NDArray[np.uint8]
    address: int
    shared: bool


class Cuda:
    """The first GPU. Only the thread that created this object may use and close it.

    All methods except `current` and `close` must be called inside `current`.

    Raises:
        ProcunitError: there is no usable GPU.
    """

    def __init__(self, driver: ModuleType, libcuda: Libcuda) -> None:
        self._driver = driver
        self._libcuda = libcuda
        self._thread = threading.get_ident()
        self._memory: list[_Freeable] = []
        self.closed = False
        try:
            driver.init()
            device = driver.Device(0)
            self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise ProcunitError(f"CUDA finds no GPU it can use: {error}", remedy=_NO_GPU_REMEDY) from error
        try:
            with self.current():
                self._stream = driver.Stream(_STREAM_NON_BLOCKING)
        except EngineError as error:
            self._release_context()
            raise ProcunitError(f"the GPU cannot be used: {error}", remedy=_NO_GPU_REMEDY) from error

    @property
    def stream(self) -> int:
        """The handle of the single stream that is used; not the default stream."""
        return int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current during a block; a CUDA error in it raises the exception that `failure` returns."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("the GPU is used by another thread than the one that opened it")
        if self.closed:
            raise EngineLostError("the GPU was closed before")
        try:
            self._context.push()
        except self._driver.Error as error:
            raise EngineLostError(f"the GPU's context is lost: {error}") from error
        try:
            yield
        except (self._driver.Error, CudaCallError) as error:
            raise self.failure(str(error)) from error
        finally:
            self._context.pop()

    def failure(self, what: str) -> EngineError:
        """The exception for a failed call: `EngineLostError` if the GPU is unusable from now on.

        After a sticky error (illegal address, ECC, launch failure) every call fails, so a call without effect shows it.
        pycuda's exception classes do not: an illegal address is a LogicError, like a wrong argument.
        """
        try:
            self._libcuda.call("cuCtxSynchronize")
        except CudaCallError as error:
            return EngineLostError(f"the GPU failed: {what} ({error})")
        return EngineError(what)

    def device_memory(self, size_bytes: int) -> int:
        """Allocate GPU memory, freed by `close`; returns its address."""
        allocation = self._driver.mem_alloc(size_bytes)
        self._memory.append(allocation)
        return int(allocation)

    def buffer(self, size_bytes: int, *, mapped: bool) -> Buffer:
        """Allocate page-locked memory and its GPU copy, freed by `close`; the GPU reads `mapped` memory directly."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        host = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        self._memory.append(host.base)
        address = int(host.base.get_device_pointer()) if mapped else self.device_memory(size_bytes)
        return Buffer(host, address, mapped)

    def upload(self, buffer: Buffer) -> None:
        """Enqueue the copy to the GPU."""
        if not buffer.shared:
            self._driver.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        """Enqueue the copy from the GPU."""
        if not buffer.shared:
            self._driver.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def write(self, address: int, array: NDArray[np.float32]) -> None:
        """Copy an array to the GPU, and wait until it is done."""
        self._driver.memcpy_htod_async(address, np.ascontiguousarray(array), self._stream)
        self.synchronise()

    def synchronise(self) -> None:
        """Wait until the stream has finished all its work."""
        self._stream.synchronize()

    def captured(self, enqueue: Callable[[], None]) -> CudaGraph:
        """A CUDA graph of the work that `enqueue` puts onto the stream; see `captured_graph`."""
        return captured_graph(self._libcuda, self.stream, enqueue)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total GPU memory; on a Jetson it is the machine's memory."""
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """Free all memory, the stream and the context, in this order; a second call does nothing."""
        if self.closed:
            return
        with suppress(EngineError), self.current():
            while self._memory:
                self._memory.pop().free()
            del self._stream
        self._release_context()

    def _release_context(self) -> None:
        self.closed = True
        self._context.detach()
        with suppress(CudaCallError):  # pycuda's detach leaves the released context on the thread's stack
            self._libcuda.call("cuCtxPopCurrent_v2", byref(c_void_p()))


def cuda_from_system() -> Cuda:
    """Open this machine's GPU for the calling thread.

    Raises:
        ProcunitError: pycuda is not installed, or there is no driver or no usable GPU.
    """
    try:
        libcuda = libcuda_from_system()
    except OSError as error:
        raise ProcunitError(
            f"the CUDA driver cannot be loaded: {error}",
            remedy="Install the NVIDIA driver (on a Jetson it comes with JetPack); or set engine.kind to ort",
        ) from error
    try:
        driver = import_module("pycuda.driver")
    except ImportError as error:
        raise ProcunitError(
            f"pycuda cannot be loaded: {error}",
            remedy=(
                "It is compiled when it is installed. On a Jetson run: sudo apt install build-essential python3-dev, "
                "then: PATH=/usr/local/cuda/bin:$PATH pip install 'procunit-edge[tensorrt]'"
            ),
        ) from error
    return Cuda(driver, libcuda)
