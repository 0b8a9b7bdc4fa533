"""A double of `pycuda.driver` on top of the double of the CUDA driver, and the `Cuda` object on top of both.

It has the names that `edge.engine.cuda` uses; `tests/contract` compares them with the real pycuda. Like pycuda it frees
an object only in the thread that made it, has no text for error codes from 700 on except an illegal address, and leaves
a detached context on the thread's stack.
"""

from __future__ import annotations

import threading
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edge.engine.cuda import Cuda
from edge.engine.cuda_graph import Libcuda
from tests.doubles.cuda_double import FREED, INVALID_CONTEXT, NO_DEVICE, OUT_OF_MEMORY, CudaDouble, Queue

_TEXTS = {
    OUT_OF_MEMORY: "out of memory",
    INVALID_CONTEXT: "invalid context",
    NO_DEVICE: "no device",
    700: "an illegal memory access",
}
_INTEGRATED, _DEVICEMAP, _NON_BLOCKING = 18, 2, 1


class Error(Exception):
    """pycuda's base class."""


class MemoryError(Error):
    """pycuda.driver.MemoryError."""


class LogicError(Error):
    """pycuda.driver.LogicError, also raised for errors without a class of their own."""


class RuntimeError(Error):
    """pycuda.driver.RuntimeError."""


def cuda_over(driver: CudaDouble) -> Cuda:
    """A `Cuda` object with the double."""
    return Cuda(pycuda_over(driver), Libcuda(driver.function))


def pycuda_over(driver: CudaDouble) -> ModuleType:
    """The module `pycuda.driver`."""
    module = ModuleType("pycuda.driver")
    names: dict[str, object] = {
        "Error": Error,
        "init": lambda: _guard(driver, "cuInit", context=False),
        "Device": lambda index: Device(driver, index),
        "device_attribute": type("device_attribute", (), {"INTEGRATED": _INTEGRATED}),
        "host_alloc_flags": type("host_alloc_flags", (), {"DEVICEMAP": _DEVICEMAP}),
        "Stream": lambda flags: _stream(driver, flags),
        "mem_alloc": lambda size: DeviceAllocation(driver, size),
        "pagelocked_empty": lambda shape, dtype, mem_flags: np.asarray(
            PagelockedHostAllocation(driver, shape, mapped=mem_flags == _DEVICEMAP), dtype
        ),
        "memcpy_htod_async": lambda dest, src, stream: _memcpy_htod_async(driver, dest, src, stream),
        "memcpy_dtoh_async": lambda dest, src, stream: _memcpy_dtoh_async(driver, dest, src, stream),
        "mem_get_info": driver.memory_info,
    }
    vars(module).update(names)
    return module


def _guard(driver: CudaDouble, call: str, *, context: bool = True) -> None:
    code = driver.check(call, context=context)
    if code:
        classes = {OUT_OF_MEMORY: MemoryError, NO_DEVICE: RuntimeError}
        raise classes.get(code, LogicError)(f"{call} failed: {_TEXTS.get(code, 'unknown')}")


class Device:
    """A GPU."""

    def __init__(self, driver: CudaDouble, index: int) -> None:
        _guard(driver, "cuDeviceGet", context=False)
        if index >= driver.devices:
            raise LogicError("cuDeviceGet failed: invalid device")
        self._driver = driver

    def get_attribute(self, attribute: int) -> int:
        """The value of a `device_attribute`."""
        return int(self._driver.integrated and attribute == _INTEGRATED)

    def retain_primary_context(self) -> Context:
        """The context, which is not pushed."""
        _guard(self._driver, "cuDevicePrimaryCtxRetain", context=False)
        self._driver.retained += 1
        return Context(self._driver)


class Context:
    """The primary context, retained once."""

    def __init__(self, driver: CudaDouble) -> None:
        self._driver = driver
        self._thread = threading.get_ident()
        self._valid = True

    def push(self) -> None:
        """Push it on the calling thread's stack."""
        _guard(self._driver, "cuCtxPushCurrent", context=False)
        self._driver.push(self)

    def pop(self) -> None:
        """Pop it from the calling thread's stack."""
        if not self._driver.pop():
            raise LogicError("context::pop failed: invalid context - cannot pop non-current context")

    def detach(self) -> None:
        """Release it and leave it on the thread's stack, as pycuda does."""
        if not self._valid:
            raise LogicError("context::detach failed: invalid context - cannot detach from invalid context")
        if self._thread != threading.get_ident():
            self._driver.breaches.append("a context is released by another thread, which leaks it in pycuda")
            return
        self._valid = False
        self._driver.push(self)
        self._driver.retained -= 1
        if self._driver.retained == 0 and (self._driver.device or self._driver.pinned):
            self._driver.breaches.append("the context is released before its memory")


class Stream:
    """A stream, destroyed with this object."""

    def __init__(self, driver: CudaDouble) -> None:
        self._driver = driver
        self.handle = next(driver.handles)
        self.queue = driver.streams[self.handle] = Queue()

    def synchronize(self) -> None:
        """Run all of its work."""
        if self.queue.captured is not None:
            self._driver.breaches.append("a stream is synchronised during its capture")
        self._driver.run(self.queue)
        _guard(self._driver, "cuStreamSynchronize")

    def __del__(self) -> None:
        if self._driver.retained:
            self._driver.streams.pop(self.handle, None)


class DeviceAllocation:
    """GPU memory."""

    def __init__(self, driver: CudaDouble, size: int) -> None:
        _guard(driver, "cuMemAlloc")
        self._driver, self._address = driver, driver.allocate(size)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        """Free it."""
        self._driver.check("cuMemFree")
        self._driver.release(self._address)


class PagelockedHostAllocation:
    """Page-locked memory: the base of the array that pycuda returns."""

    def __init__(self, driver: CudaDouble, size: int, *, mapped: bool) -> None:
        _guard(driver, "cuMemHostAlloc")
        self.block = np.full(size, FREED, np.uint8)
        self.mapped = mapped
        self.device_address = next(driver.addresses)
        self._driver = driver
        driver.pinned[id(self)] = self

    @property
    def __array_interface__(self) -> dict[str, object]:
        return dict(self.block.__array_interface__)

    def get_device_pointer(self) -> int:
        """Its address for the GPU."""
        _guard(self._driver, "cuMemHostGetDevicePointer")
        if not self.mapped:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid value")
        return self.device_address

    def free(self) -> None:
        """Free it."""
        self._driver.check("cuMemFreeHost")
        if self._driver.pinned.pop(id(self), None) is None:
            self._driver.breaches.append("page-locked memory is freed twice")
        self.block[:] = FREED


def _stream(driver: CudaDouble, flags: int) -> Stream:
    _guard(driver, "cuStreamCreate")
    if flags != _NON_BLOCKING:
        driver.breaches.append("the stream waits for the default stream")
    return Stream(driver)


def _memcpy_htod_async(driver: CudaDouble, address: int, source: NDArray[np.generic], stream: Stream) -> None:
    _guard(driver, "cuMemcpyHtoDAsync")
    raw = source.reshape(-1).view(np.uint8)
    if not _is_pinned(driver, raw):
        raw = raw.copy()  # the driver stages memory that may be paged before it returns
    stream.queue.put(lambda: np.copyto(driver.memory(address, raw.nbytes, "copy to the GPU"), raw))


def _memcpy_dtoh_async(driver: CudaDouble, target: NDArray[np.uint8], address: int, stream: Stream) -> None:
    _guard(driver, "cuMemcpyDtoHAsync")
    if not _is_pinned(driver, target):
        driver.breaches.append("results are copied into memory that may be paged")
    stream.queue.put(lambda: np.copyto(target, driver.memory(address, target.nbytes, "copy from the GPU")))


def _is_pinned(driver: CudaDouble, array: NDArray[np.uint8]) -> bool:
    start = array.ctypes.data
    return any(0 <= start - pinned.block.ctypes.data < len(pinned.block) for pinned in driver.pinned.values())
