"""Photographs through the on-device path: the scores on which thresholds, seeded runs and evaluations are based."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.progress import track

from calibration.held_out import FarthestPatches, PatchExtractor
from edge.bundle.manifest import GOOD
from edge.bundle.reader import file_entry_from_path
from edge.bundle.records import PhotoScores
from edge.engine.protocol import Engine, EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.terminal import Console
from training.data.run_files import RunPhoto

ItemT = TypeVar("ItemT")


def with_progress(items: Sequence[ItemT], description: str) -> Iterable[ItemT]:
    """The items, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


@dataclass(frozen=True, eq=False)
class ScoredPhoto:
    """A photograph's scores, and its patches farthest from the bank."""

    scores: PhotoScores
    farthest: FarthestPatches


@dataclass(frozen=True)
class PhotoScorer:
    """Scores photographs of the folder `data` with an engine; its bank may be swapped between photographs."""

    data: Path
    geometry: Geometry
    engine: Engine
    patches: PatchExtractor

    def scored(self, photo: RunPhoto) -> ScoredPhoto:
        """One photograph's scores.

        Raises:
            ProcunitError: the file is missing, changed since training or unreadable, or the engine failed on it.
        """
        path = self.data / photo.file
        if not path.is_file() or file_entry_from_path(path).sha256 != photo.sha256:
            raise ProcunitError(
                "missing, or changed since training", where=str(path), remedy="Put the photograph back, or train again"
            )
        pixels = read_image(path)
        try:
            scores, _ = score_pixels(pixels, self.geometry, self.engine)
        except EngineError as error:
            raise ProcunitError(str(error), where=str(path)) from error
        if not np.isfinite([*scores.type_scores, scores.anomaly_score]).all():
            raise ProcunitError("a score is not a finite number", where=str(path), remedy="Train and export again")
        return ScoredPhoto(
            PhotoScores(
                sha256=photo.sha256,
                part_id=photo.part_id,
                label=photo.label,
                type_scores=scores.type_scores,
                anomaly_score=scores.anomaly_score,
            ),
            self.patches.farthest(pixels, scores, of_highest_tile=photo.label != GOOD),
        )
