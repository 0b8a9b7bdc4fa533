"""One thread's hold on the GPU, on pycuda: context, stream, memory and copies, and what a failing GPU is called.

The primary context is shared with whatever else in the process uses CUDA. It is current only inside `Cuda.current()`:
pycuda aborts the process if a thread ends with a context on its stack, and frees a thing only in the thread that made
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
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default one; pycuda has no name for it."""
_NO_GPU_REMEDY = "Check with nvidia-smi that the driver sees the GPU and it has memory left; or set engine.kind to ort"


class _Freeable(Protocol):
    def free(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Buffer:
    """Page-locked host memory, uint8 [bytes], and the address of its mirror on the GPU; `shared` if both are one."""

    host: NDArray[np.uint8]
    address: int
    shared: bool


class Cuda:
    """The first GPU, held by the thread that makes this, which alone may use and close it.

    Everything but `current` and `close` is called inside `current`.

    Raises:
        ProcunitError: there is no GPU that can be used.
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
        """The handle of the one stream that everything runs on; not the default stream."""
        return int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """The GPU's context for the length of a block, in which a failing call raises what `failure` makes of it."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("the GPU is used by a thread that does not hold it")
        if self.closed:
            raise EngineLostError("the GPU was given up before")
        try:
            self._context.push()
        except self._driver.Error as error:
            raise EngineLostError(f"the GPU's context is gone: {error}") from error
        try:
            yield
        except (self._driver.Error, CudaCallError) as error:
            raise self.failure(str(error)) from error
        finally:
            self._context.pop()

    def failure(self, what: str) -> EngineError:
        """The exception for a failed call: whether the GPU can go on is asked of the driver.

        After a sticky error (illegal address, ECC, launch failure) every call fails, so one that has nothing to do
        tells; pycuda's exceptions do not, an illegal address is a LogicError like a wrong argument.
        """
        try:
            self._libcuda.call("cuCtxSynchronize")
        except CudaCallError as error:
            return EngineLostError(f"the GPU failed: {what} ({error})")
        return EngineError(what)

    def device_memory(self, size_bytes: int) -> int:
        """The address of new memory of the GPU, freed by `close`."""
        allocation = self._driver.mem_alloc(size_bytes)
        self._memory.append(allocation)
        return int(allocation)

    def buffer(self, size_bytes: int, *, mapped: bool) -> Buffer:
        """New page-locked memory and its mirror, freed by `close`; `mapped` memory is read by the GPU where it lies."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        host = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        self._memory.append(host.base)
        address = int(host.base.get_device_pointer()) if mapped else self.device_memory(size_bytes)
        return Buffer(host, address, mapped)

    def upload(self, buffer: Buffer) -> None:
        """Put the copy to the GPU onto the stream."""
        if not buffer.shared:
            self._driver.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        """Put the copy from the GPU onto the stream."""
        if not buffer.shared:
            self._driver.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def write(self, address: int, array: NDArray[np.float32]) -> None:
        """Copy an array to the GPU and wait for it."""
        self._driver.memcpy_htod_async(address, np.ascontiguousarray(array), self._stream)
        self.synchronise()

    def synchronise(self) -> None:
        """Wait until the stream has done everything."""
        self._stream.synchronize()

    def captured(self, enqueue: Callable[[], None]) -> CudaGraph:
        """What `enqueue` puts onto the stream as a graph; see `captured_graph`."""
        return captured_graph(self._libcuda, self.stream, enqueue)

    def memory_bytes(self) -> tuple[int, int]:
        """The GPU's free and whole memory; a Jetson's is that of the machine."""
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
        with suppress(CudaCallError):  # pycuda's detach leaves the context it released on the thread's stack
            self._libcuda.call("cuCtxPopCurrent_v2", byref(c_void_p()))


def cuda_from_system() -> Cuda:
    """This machine's GPU, held by the calling thread.

    Raises:
        ProcunitError: pycuda is not installed, there is no driver or no GPU.
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
                "It is compiled where it is installed. On a Jetson run: sudo apt install build-essential python3-dev, "
                "then: PATH=/usr/local/cuda/bin:$PATH pip install 'procunit-edge[tensorrt]'"
            ),
        ) from error
    return Cuda(driver, libcuda)
