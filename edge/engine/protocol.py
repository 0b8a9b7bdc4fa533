"""The `Engine` protocol: the interface between the pipeline and the runtimes that run the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge.errors import ProcunitError


class EngineError(Exception):
    """The engine failed on a part; the part becomes `not_inspected: engine`."""


class EngineLostError(EngineError):
    """The accelerator failed: this engine is unusable and has to be closed and opened again."""


class UnfitPlanError(ProcunitError):
    """A built engine cannot be loaded or does not fit the bundle: it has to be built again."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of the graph for N tiles and T types, float32.

    `logits` [N, T], `defect_maps` [N, T, h, w] (logits), `anomaly_map` [N, h, w], `anomaly_score` [N].
    """

    logits: NDArray[np.float32]
    defect_maps: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    anomaly_score: NDArray[np.float32]


class StoredFile(Protocol):
    """A file that is read as a whole: of a bundle or of the engine cache (`SealedFile`), or of a RUN (`Path`)."""

    @property
    def name(self) -> str:
        """The name without folders."""
        ...

    @property
    def stem(self) -> str:
        """The name without folders and suffix."""
        ...

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            ProcunitError: it is not what was sealed.
            OSError: it cannot be read.
        """
        ...


class Engine(Protocol):
    """Runs the bundle's graph; owned by one thread."""

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C].

        Raises:
            EngineError: it failed; unless it is an `EngineLostError`, the engine may be used again.
        """
        ...

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Use another bank [M, D + 1] from the next part on, without a new build.

        Raises:
            ProcunitError: the bank does not fit the graph; the previous bank stays in use.
        """
        ...

    def close(self) -> None:
        """Release everything; the engine must not be used again."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """An engine whose inference another thread can end."""

    def interrupt(self) -> None:
        """End a running inference, and every later one, with an `EngineError`; any thread may call."""
        ...


def outputs_from_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> Outputs:
    """`Outputs` from arrays by output name; graphs without types have no `logits` and no `defect_maps`.

    Raises:
        EngineError: a shape or a type is not that of `Outputs`.
    """
    anomaly_map = arrays["anomaly_map"]
    tiles, height, width = anomaly_map.shape if anomaly_map.ndim == 3 else (0, 0, 0)
    outputs = Outputs(
        logits=arrays.get("logits", np.zeros((tiles, 0), np.float32)),
        defect_maps=arrays.get("defect_maps", np.zeros((tiles, 0, height, width), np.float32)),
        anomaly_map=anomaly_map,
        anomaly_score=arrays["anomaly_score"],
    )
    types = outputs.logits.shape[1] if outputs.logits.ndim == 2 else 0
    expected = {
        "logits": (tiles, types),
        "defect_maps": (tiles, types, height, width),
        "anomaly_map": (tiles, height, width),
        "anomaly_score": (tiles,),
    }
    for name, shape in expected.items():
        found = getattr(outputs, name)
        if found.shape != shape or found.dtype != np.float32:
            raise EngineError(f"its output {name} is {found.dtype} {list(found.shape)}, not float32 {list(shape)}")
    return outputs
