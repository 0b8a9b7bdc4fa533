"""CUDA graphs, which pycuda does not have: stream work captured by calls to libcuda through ctypes.

Source: CUDA driver API, "Stream management" and "Graph management"; all functions are in CUDA 12.6 to 13.x.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_ulonglong, c_void_p

LIBRARY_FILE = "libcuda.so.1"
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not invalidate the capture."""

DriverFunction = Callable[..., int]


class CudaCallError(Exception):
    """A call of the CUDA driver did not return CUDA_SUCCESS."""

    def __init__(self, function: str, code: int, name: str) -> None:
        super().__init__(f"{function} failed: {name}")
        self.code = code


class Libcuda:
    """Calls libcuda's functions by name; an error code raises `CudaCallError`."""

    def __init__(self, function: Callable[[str], DriverFunction]) -> None:
        self._function = function

    def call(self, name: str, *arguments: object) -> None:
        """Call a function; the arguments are ctypes objects.

        Raises:
            CudaCallError: it returned an error.
        """
        code = self._function(name)(*arguments)
        if code != 0:
            raise CudaCallError(name, code, self._error_name(code))

    def _error_name(self, code: int) -> str:
        text = c_char_p()
        known = self._function("cuGetErrorName")(c_int(code), byref(text)) == 0 and text.value is not None
        return f"{text.value.decode()} ({code})" if known and text.value else f"CUDA error {code}"


def libcuda_from_system() -> Libcuda:
    """Load the CUDA driver of this machine.

    Raises:
        OSError: it has none.
    """
    library = ctypes.CDLL(LIBRARY_FILE)

    def function(name: str) -> DriverFunction:
        found: DriverFunction = getattr(library, name)  # ctypes caches the attribute, unlike library[name]
        return found

    return Libcuda(function)


class CudaGraph:
    """Captured work of one stream; one call launches it again, with the same addresses and shapes."""

    def __init__(self, libcuda: Libcuda, stream: int, graph_exec: c_void_p) -> None:
        self._libcuda = libcuda
        self._stream = stream
        self._exec = graph_exec

    def launch(self) -> None:
        """Enqueue the work on the stream.

        Raises:
            CudaCallError: the driver refused.
        """
        self._libcuda.call("cuGraphLaunch", self._exec, c_void_p(self._stream))

    def close(self) -> None:
        """Release it; it must not be running.

        Raises:
            CudaCallError: the driver refused.
        """
        self._libcuda.call("cuGraphExecDestroy", self._exec)


def captured_graph(libcuda: Libcuda, stream: int, enqueue: Callable[[], None]) -> CudaGraph:
    """Record the work that `enqueue` puts onto a stream (a handle; not the default stream) instead of running it.

    Exceptions of `enqueue` are passed on; the stream can be used afterwards.

    Raises:
        CudaCallError: the work cannot be captured; the stream is as it was before.
    """
    graph = c_void_p()
    libcuda.call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(_CAPTURE_THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        _end_failed_capture(libcuda, stream, graph)
        raise
    libcuda.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
    graph_exec = c_void_p()
    try:
        libcuda.call("cuGraphInstantiateWithFlags", byref(graph_exec), graph, c_ulonglong(0))
    finally:
        with suppress(CudaCallError):  # if the GPU has failed, the next call reports it
            libcuda.call("cuGraphDestroy", graph)
    return CudaGraph(libcuda, stream, graph_exec)


def _end_failed_capture(libcuda: Libcuda, stream: int, graph: c_void_p) -> None:
    """End the capture; if TensorRT invalidated it, cuStreamEndCapture returns an error and no graph."""
    with suppress(CudaCallError):
        libcuda.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        if graph.value is not None:
            libcuda.call("cuGraphDestroy", graph)
