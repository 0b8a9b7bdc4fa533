"""What an engine takes of the host's memory and of the GPU's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edge.engine.cuda import Cuda, cuda_from_system

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (1e6 bytes): of resident host memory, and of the GPU's; None where no GPU is used.

    A Jetson's GPU lives on the host's memory, so that its figure holds the other one.
    """

    host_mb: float
    gpu_mb: float | None


class MemoryMeter:
    """Tells how much memory this process has taken since the meter was entered.

    What the process had freed before is taken again without growth, so the figure is a lower bound.

    Raises:
        ProcunitError: `gpu` was asked for and there is none.
    """

    def __init__(self, *, gpu: bool) -> None:
        self._cuda: Cuda | None = cuda_from_system() if gpu else None

    def growth(self) -> Memory:
        """Memory taken since."""
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
