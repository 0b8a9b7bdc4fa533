"""Frame -> tensor -> engine -> scores: the same code for calibration, the golden gate and the device."""

from __future__ import annotations

import time

import numpy as np

from edge.engine.protocol import Engine, EngineError, Outputs
from edge.geometry import Geometry
from edge.messages import PixelArray, Scores, Timings
from edge.policy import sigmoid
from edge.preprocess import tensor_from_pixels
from edge.system.clock import elapsed_ms


def scores_from_outputs(outputs: Outputs) -> Scores:
    """Merge the tiles: each score is the highest over the tiles; the maps stay one per tile.

    Raises:
        EngineError: there are no tiles.
    """
    if not len(outputs.anomaly_score):
        raise EngineError("the engine returned no tiles")
    best = outputs.logits.max(axis=0).astype(np.float64)
    return Scores(
        type_scores=tuple(sigmoid(float(value)) for value in best),
        anomaly_score=float(outputs.anomaly_score.max()),
        defect_maps=outputs.defect_maps,
        anomaly_map=outputs.anomaly_map,
    )


def score_pixels(pixels: PixelArray, geometry: Geometry, engine: Engine) -> tuple[Scores, Timings]:
    """Preprocess a frame and infer its scores, with the time that each step took.

    Raises:
        ProcunitError: the frame is not a usable image.
        EngineError: the engine failed.
    """
    started_ns = time.monotonic_ns()
    tiles_u8 = tensor_from_pixels(pixels, geometry)
    preprocess_ms = elapsed_ms(started_ns)
    started_ns = time.monotonic_ns()
    scores = scores_from_outputs(engine.infer(tiles_u8))
    return scores, Timings(preprocess_ms=preprocess_ms, engine_ms=elapsed_ms(started_ns))
