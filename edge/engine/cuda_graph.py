"""What pycuda lacks of the CUDA driver: work captured as a graph, by ctypes on libcuda.

Source: CUDA driver API, "Stream management" and "Graph management"; all functions are in CUDA 12.6 to 13.x.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_ulonglong, c_void_p

LIBRARY_FILE = "libcuda.so.1"
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do with the GPU does not spoil the capture."""

DriverFunction = Callable[..., int]


class CudaCallError(Exception):
    """A call of the CUDA driver did not return CUDA_SUCCESS."""

    def __init__(self, function: str, code: int, name: str) -> None:
        super().__init__(f"{function} failed: {name}")
        self.code = code


class Libcuda:
    """libcuda's functions by name; any error code becomes a `CudaCallError`."""

    def __init__(self, function: Callable[[str], DriverFunction]) -> None:
        self._function = function

    def call(self, name: str, *arguments: object) -> None:
        """Call a function with ctypes' objects as arguments.

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
    """The driver of this machine.

    Raises:
        OSError: there is none.
    """
    library = ctypes.CDLL(LIBRARY_FILE)

    def function(name: str) -> DriverFunction:
        found: DriverFunction = getattr(library, name)  # keeps it, unlike library[name]
        return found

    return Libcuda(function)


class CudaGraph:
    """Work of one stream, captured; one call launches all of it again with the same addresses and shapes."""

    def __init__(self, libcuda: Libcuda, stream: int, graph_exec: c_void_p) -> None:
        self._libcuda = libcuda
        self._stream = stream
        self._exec = graph_exec

    def launch(self) -> None:
        """Put the work onto the stream.

        Raises:
            CudaCallError: the driver refused.
        """
        self._libcuda.call("cuGraphLaunch", self._exec, c_void_p(self._stream))

    def close(self) -> None:
        """Release it; nothing of it may be running.

        Raises:
            CudaCallError: the driver refused.
        """
        self._libcuda.call("cuGraphExecDestroy", self._exec)


def captured_graph(libcuda: Libcuda, stream: int, enqueue: Callable[[], None]) -> CudaGraph:
    """What `enqueue` puts onto a stream (its handle; not the default stream), recorded instead of run.

    Raises:
        CudaCallError: the work cannot be captured; the stream is as it was before. What `enqueue` raises is raised on.
    """
    graph = c_void_p()
    libcuda.call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(_CAPTURE_THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        _end_spoilt_capture(libcuda, stream, graph)
        raise
    libcuda.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
    graph_exec = c_void_p()
    try:
        libcuda.call("cuGraphInstantiateWithFlags", byref(graph_exec), graph, c_ulonglong(0))
    finally:
        with suppress(CudaCallError):  # a GPU that fails here tells at the next call
            libcuda.call("cuGraphDestroy", graph)
    return CudaGraph(libcuda, stream, graph_exec)


def _end_spoilt_capture(libcuda: Libcuda, stream: int, graph: c_void_p) -> None:
    """Take the stream out of capture; a capture that TensorRT spoilt ends with an error and without a graph."""
    with suppress(CudaCallError):
        libcuda.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        if graph.value is not None:
            libcuda.call("cuGraphDestroy", graph)
