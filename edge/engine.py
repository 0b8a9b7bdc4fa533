"""The Engine protocol: what the pipeline asks of whatever runs the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.messages import Scores
from edge.policy import sigmoid


class EngineError(Exception):
    """The engine failed on a part; the part becomes `not_inspected: engine`."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The graph's outputs for N tiles and T types, float32.

    `logits` [N, T], `defect_maps` [N, T, h, w] (logits), `anomaly_map` [N, h, w], `anomaly_score` [N].
    """

    logits: NDArray[np.float32]
    defect_maps: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    anomaly_score: NDArray[np.float32]


class Engine(Protocol):
    """Runs the bundle's graph; owned by one thread."""

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """The outputs for tiles [N, H, W, C].

        Raises:
            EngineError: it failed; the engine may be used again.
        """
        ...

    def close(self) -> None:
        """Release everything; the engine may not be used again."""
        ...


def scores_from_outputs(outputs: Outputs) -> Scores:
    """Tiles merged: each score is its highest over the tiles, the maps are kept tile by tile."""
    best = outputs.logits.max(axis=0).astype(np.float64)
    return Scores(
        type_scores=tuple(sigmoid(float(value)) for value in best),
        anomaly_score=float(outputs.anomaly_score.max()),
        defect_maps=outputs.defect_maps,
        anomaly_map=outputs.anomaly_map,
    )
