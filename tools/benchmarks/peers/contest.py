"""The contestants of the accuracy benchmark, fold by fold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from timm.models import FeatureInfo

from edge.geometry import Geometry
from tools.benchmarks.peers.children import run_side
from tools.benchmarks.peers.figures import FoldResult, Scored, result_from_scores
from tools.benchmarks.peers.patchcore_ours import score_by_ours
from tools.benchmarks.peers.photographs import Contest, Fold
from training.model import pretrained_config, trunk_from_name


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """anomalib's settings: the share of patches that the bank keeps, and the neighbours that re-weight the score."""

    share: float
    neighbours: int


DEFAULTS = PeerSettings(share=0.1, neighbours=9)
ALL_PHOTOGRAPHS = ", all photographs"
_FINEST_STRIDE = 8
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""Makes glibc return large blocks to the system at once. By default it keeps blocks below 32 MB, and anomalib's coreset
frees one per row (11 MB each with 12,800 patches), until memory runs out."""


def results_of_fold(contest: Contest, fold: Fold, console: Console) -> Iterator[FoldResult]:
    """Each contestant's result in a fold; anomalib gets all photographs only if it runs on a GPU.

    Raises:
        ProcunitError: a contestant could not run.
    """
    on_gpu = False
    with TemporaryDirectory(prefix="bench-peers-") as folder:
        directory = Path(folder)
        for run, bank, of in (("one", fold.bank_one_a_part, ""), ("all", fold.bank, ALL_PHOTOGRAPHS)):
            ours = score_by_ours(contest, bank, fold.scored, directory / run, console)
            yield result_from_scores(f"ours{of}", contest, fold, bank, ours)
            if of and not on_gpu:
                return
            like_ours = PeerSettings(share_of_rows(ours.bank_rows, len(bank), contest.geometry), neighbours=1)
            for name, settings in (("anomalib, our settings", like_ours), ("anomalib, its defaults", DEFAULTS)):
                scored = score_by_anomalib(contest, bank, fold.scored, settings, directory)
                on_gpu = scored.on_gpu
                yield result_from_scores(f"{name}{of}", contest, fold, bank, scored)


def score_by_anomalib(
    contest: Contest, bank: Sequence[int], scored: Sequence[int], settings: PeerSettings, directory: Path
) -> Scored:
    """anomalib's PatchCore built from the `bank` photographs, with the same strides as ours.

    Raises:
        ProcunitError: its environment does not exist, or it failed.
    """
    backbone = contest.weights.backbone
    config = pretrained_config(backbone)
    scores, maps, task = directory / "scores.npy", directory / "maps.npy", directory / "task.json"
    instructions = {
        "backbone": backbone,
        "layers": layers_of_backbone(backbone),
        "weights": str(contest.weights_file),
        "mean": config.mean,
        "std": config.std,
        "inputs": str(contest.inputs),
        "bank": bank,
        "scored": scored,
        "share": settings.share,
        "neighbours": settings.neighbours,
        "scores": str(scores),
        "maps": str(maps),
    }
    task.write_text(json.dumps(instructions), encoding="utf-8")
    outcome = json.loads(run_side("anomalib", "patchcore_anomalib", task, environment=_GIVE_BACK))
    return Scored(np.load(scores), np.load(maps), outcome["rows"], outcome["ran_on"], outcome["on_gpu"])


def share_of_rows(rows: int, photos: int, geometry: Geometry) -> float:
    """The share of all patches on anomalib's grid that gives `rows` rows; anomalib rounds down."""
    patches = photos * (geometry.input_height_px // _FINEST_STRIDE) * (geometry.input_width_px // _FINEST_STRIDE)
    return min(1.0, (rows + 0.5) / patches)


def layers_of_backbone(backbone: str) -> list[str]:
    """timm's names of the modules that end strides 8 and 16, like `layer2` and `layer3` of a ResNet."""
    info = trunk_from_name(backbone).feature_info
    assert isinstance(info, FeatureInfo)
    return [str(name) for name in info.module_name()[:2]]
