"""Measures how much host and GPU memory an engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edge.engine.cuda import Cuda, cuda_from_system

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident host memory and GPU memory in megabytes (1e6 bytes); `gpu_mb` is None if no GPU is used.

    On a Jetson, CPU and GPU share memory, so the GPU figure includes the host figure.
    """

    host_mb: float
    gpu_mb: float | None


class MemoryMeter:
    """Measures how much memory this process has taken since entering the block.

    Memory that was freed earlier may be reused without growth, so the figure is a lower bound.

    Raises:
        ProcunitError: `gpu` is True and there is no GPU.
    """

    def __init__(self, *, gpu: bool) -> None:
        self._cuda: Cuda | None = cuda_from_system() if gpu else None

    def growth(self) -> Memory:
        """The memory taken since entering the block."""
        host, gpu = self._now()
        host_before, gpu_before = self._before
        gpu_mb = None if gpu is None or gpu_before is None else (gpu - gpu_before) / 1e6
        return Memory((host - host_before) / 1e6, gpu_mb)

    def __enter__(self) -> MemoryMeter:
        self._before = self._now()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._cuda is not None:
            self._cuda.close()

    def _now(self) -> tuple[int, int | None]:
        """Bytes in use, of the host and of the GPU."""
        if self._cuda is None:
            return resident_bytes(), None
        with self._cuda.current():
            free, total = self._cuda.memory_bytes()
        return resident_bytes(), total - free


def resident_bytes() -> int:
    """This process's resident memory."""
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])
