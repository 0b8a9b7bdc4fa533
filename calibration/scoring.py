"""Photographs through the on-device path: the scores that thresholds, seeded runs and evaluations are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from edge.bundle import file_entry_from_path
from edge.dataset import read_image
from edge.engine import Engine, EngineError
from edge.errors import ProcunitError
from edge.pipeline import score_pixels
from edge.preprocess import Geometry
from edge.runfiles import PhotoScores, RunPhoto

ItemT = TypeVar("ItemT")


def with_progress(items: Sequence[ItemT], description: str) -> Iterable[ItemT]:
    """The items, one after another, with a bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


def scores_from_photo(path: Path, photo: RunPhoto, geometry: Geometry, engine: Engine) -> PhotoScores:
    """One photograph's scores.

    Raises:
        ProcunitError: it is missing, changed since training, unreadable, or the engine failed on it.
    """
    if not path.is_file() or file_entry_from_path(path).sha256 != photo.sha256:
        raise ProcunitError(
            "missing, or changed since training", where=str(path), remedy="Put the photograph back, or train again"
        )
    try:
        scores, _ = score_pixels(read_image(path), geometry, engine)
    except EngineError as error:
        raise ProcunitError(str(error), where=str(path)) from error
    if not np.isfinite([*scores.type_scores, scores.anomaly_score]).all():
        raise ProcunitError("a score is not a finite number", where=str(path), remedy="Train and export again")
    return PhotoScores(
        sha256=photo.sha256,
        part_id=photo.part_id,
        label=photo.label,
        type_scores=scores.type_scores,
        anomaly_score=scores.anomaly_score,
    )
