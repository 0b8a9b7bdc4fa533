"""A double of the CUDA driver with simulated memory; `tests.doubles.pycuda_double` presents it as pycuda.

It checks the runtime's calls of the driver: contexts per thread, who frees what and how often, sizes and bounds of
copies, the order of work on a stream (nothing runs before a wait), the content of a captured graph, and that an error
in any call leaks nothing. Violations are recorded in `breaches`, as the driver would not raise for most of them. It
cannot show that a real driver or pycuda behaves like this, that GPU memory is coherent, or anything about time:
`tests/gpu` does.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

OUT_OF_MEMORY, NO_DEVICE, INVALID_CONTEXT, ILLEGAL_ADDRESS = 2, 100, 201, 700
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
_NAMES = {
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    ILLEGAL_ADDRESS: b"CUDA_ERROR_ILLEGAL_ADDRESS",
    CAPTURE_UNSUPPORTED: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    CAPTURE_INVALIDATED: b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
}
FREED = 0xDD

Work = Callable[[], None]


class Queue:
    """The work of a stream, in order; it runs only when `drain` is called."""

    def __init__(self) -> None:
        self._pending: list[Work] = []
        self.captured: Graph | None = None

    def put(self, work: Work) -> None:
        """Append work to the stream, or to the graph that is being captured."""
        (self._pending if self.captured is None else self.captured.work).append(work)

    def drain(self) -> None:
        """Run all pending work."""
        pending, self._pending = self._pending, []
        for work in pending:
            work()


class Pinned(Protocol):
    """Page-locked memory; `device_address` is valid if it is mapped."""

    block: NDArray[np.uint8]
    mapped: bool
    device_address: int


@dataclass
class Graph:
    """Captured work."""

    work: list[Work]
    capturable: bool = True


@dataclass
class CudaDouble:
    """The driver's state; `fail` and `break_gpu` make it fail; `breaches` and `calls` record how it was used.

    With `breaks`, the GPU stays broken after the first failure.
    """

    integrated: bool = False
    devices: int = 1
    breaches: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    device: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    pinned: dict[int, Pinned] = field(default_factory=dict)
    graphs: dict[int, Graph] = field(default_factory=dict)
    streams: dict[int, Queue] = field(default_factory=dict)
    retained: int = 0
    sticky: int = 0
    capturable: bool = True
    breaks: bool = False

    def __post_init__(self) -> None:
        self._stacks: dict[int, list[object]] = {}
        self._failing: dict[tuple[str, int], int] = {}
        self.addresses = itertools.count(1 << 33, 1 << 28)
        self.handles = itertools.count(0x7F00_0000_0000, 64)  # wider than 32 bits, as real ones are

    def fail(self, call: str, *, nth: int = 1, code: int = OUT_OF_MEMORY) -> None:
        """Let the n-th call of this name fail, counted from now on."""
        self._failing[call, self.calls[call] + nth] = code

    def break_gpu(self, code: int = ILLEGAL_ADDRESS) -> None:
        """Let every later call that reaches the GPU fail, as after a sticky error."""
        self.sticky = code

    @property
    def held(self) -> dict[str, int]:
        """The resources that are not released yet, by kind; empty if all are."""
        counts = {
            "device memory": len(self.device),
            "pinned memory": len(self.pinned),
            "graphs": len(self.graphs),
            "streams": len(self.streams),
            "retained contexts": self.retained,
            "contexts on stacks": sum(map(len, self._stacks.values())),
        }
        return {name: count for name, count in counts.items() if count}

    def memory_info(self) -> tuple[int, int]:
        """Free and total memory of the GPU."""
        return 8_000_000_000 - sum(map(len, self.device.values())), 8_000_000_000

    @property
    def is_current(self) -> bool:
        """True if the context is current in the calling thread."""
        return bool(self._stacks.get(threading.get_ident()))

    def memory(self, address: int, size: int, why: str) -> NDArray[np.uint8]:
        """The bytes at an address, if the GPU may access them; anything else is a breach."""
        for start, block in self.device.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        for allocation in self.pinned.values():
            if allocation.mapped and allocation.device_address <= address:
                offset = address - allocation.device_address
                if offset + size <= len(allocation.block):
                    return np.asarray(allocation.block[offset : offset + size])
        self.breaches.append(f"{why}: {size} bytes at {address:#x} are not the GPU's")
        return np.zeros(size, np.uint8)

    def allocate(self, size: int) -> int:
        """Allocate GPU memory; also for TensorRT's internal memory."""
        address = next(self.addresses)
        self.device[address] = np.full(size, FREED, np.uint8)
        return address

    def release(self, address: int) -> None:
        """Free GPU memory; doing so twice is a breach."""
        if self.device.pop(address, None) is None:
            self.breaches.append(f"memory at {address:#x} is freed twice")

    def put(self, handle: int, work: Work) -> None:
        """Enqueue work on a stream: it waits for a synchronisation, or is captured."""
        self.streams[handle].put(work)

    def run(self, queue: Queue) -> None:
        """Run the work of a stream, unless the GPU is broken."""
        if not self.sticky:
            queue.drain()

    def check(self, call: str, *, context: bool = True) -> int:
        """Count a call and return its error code, 0 for success."""
        self.calls[call] += 1
        if context and not self.is_current:
            self.breaches.append(f"{call} without a context")
        code = self._failing.pop((call, self.calls[call]), 0)
        if code and self.breaks:
            self.break_gpu()
        return code or (self.sticky if context else 0)

    # functions of libcuda ---------------------------------------------------------------------------------------------

    def function(self, name: str) -> Callable[..., int]:
        """A function of libcuda; its arguments are ctypes objects."""
        implementation: Callable[..., int] = getattr(self, f"_{name}")
        return implementation

    def _cuGetErrorName(self, code: Any, text: Any) -> int:  # noqa: N802
        text._obj.value = _NAMES.get(code.value, b"CUDA_ERROR_UNKNOWN")
        return 0

    def _cuCtxSynchronize(self) -> int:  # noqa: N802
        for stream in self.streams.values():
            self.run(stream)
        return self.check("cuCtxSynchronize")

    def _cuCtxPopCurrent_v2(self, _context: Any) -> int:  # noqa: N802
        return 0 if self.pop() else INVALID_CONTEXT

    def _cuStreamBeginCapture_v2(self, handle: Any, mode: Any) -> int:  # noqa: N802
        if mode.value != 1:
            self.breaches.append("the capture mode is not thread-local")
        code = self.check("cuStreamBeginCapture_v2")
        if code == 0:
            self.streams[handle.value].captured = Graph([], self.capturable)
        return code

    def _cuStreamEndCapture(self, handle: Any, graph: Any) -> int:  # noqa: N802
        stream = self.streams[handle.value]
        captured, stream.captured = stream.captured, None
        code = self.check("cuStreamEndCapture")
        if captured is None or not captured.capturable:
            return CAPTURE_INVALIDATED
        if code == 0:
            graph._obj.value = self._new_graph(captured)
        return code

    def _cuGraphInstantiateWithFlags(self, graph_exec: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        code = self.check("cuGraphInstantiateWithFlags")
        if code == 0 and flags.value == 0:
            graph_exec._obj.value = self._new_graph(self.graphs[graph.value])
        return code

    def _cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        return self._destroyed_graph("cuGraphDestroy", graph.value)

    def _cuGraphExecDestroy(self, graph: Any) -> int:  # noqa: N802
        return self._destroyed_graph("cuGraphExecDestroy", graph.value)

    def _cuGraphLaunch(self, graph: Any, handle: Any) -> int:  # noqa: N802
        code = self.check("cuGraphLaunch")
        if code == 0:
            for work in self.graphs[graph.value].work:
                self.put(handle.value, work)
        return code

    def _new_graph(self, graph: Graph) -> int:
        handle = next(self.handles)
        self.graphs[handle] = graph
        return handle

    def _destroyed_graph(self, call: str, handle: int) -> int:
        if self.graphs.pop(handle, None) is None:
            self.breaches.append(f"{call}: destroyed twice")
        return self.check(call)

    # contexts of the threads ------------------------------------------------------------------------------------

    def push(self, context: object) -> None:
        """Push a context on the calling thread's stack."""
        self._stacks.setdefault(threading.get_ident(), []).append(context)

    def pop(self) -> bool:
        """Pop a context from the calling thread's stack; False if it was empty."""
        stack = self._stacks.get(threading.get_ident(), [])
        return bool(stack) and stack.pop() is not None
