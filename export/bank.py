"""The memory bank of a run: rows that cover the patches of good parts, each with its reach.

Good parts that were set aside for the thresholds are in the bank, too. So that each of them can still be judged as a
new part would be, there are banks without a fold of them; the thresholds are taken from those.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from edge.dataset import GOOD
from edge.runfiles import RunPhoto, TrainRecord
from export.candidates import candidates_from_photos, selection_from_photos
from export.coreset import Coreset, k_center_greedy
from export.space import Matrix, PatchSpace
from training.model import InspectionModel

REACH_ROWS = 9
"""A row's reach is its mean distance to this many of the other rows, as PatchCore re-weights by nine neighbours."""
FOLDS = 5
_LEAST_REACH = 1e-3
_BLOCK_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class MadeBank:
    """The bank's rows [M, D + 1], the space they are in, and the banks without each fold of the held-out good parts.

    `fold_of` names the fold of each held-out good part. No clean patch of the photographs is farther than
    `covering_radius` from a row, in the space's own units.
    """

    rows: Matrix
    space: PatchSpace
    covering_radius: float
    fold_of: Mapping[str, int]
    fold_rows: tuple[Matrix, ...]


def bank_photos(record: TrainRecord) -> list[RunPhoto]:
    """The photographs that the bank is made of: good ones that are not seeded, else the taught defects."""
    good = [photo for photo in record.photos if photo.label == GOOD and photo.role != "seed"]
    return good or [photo for photo in record.photos if photo.role == "train"]


def made_bank(model: InspectionModel, record: TrainRecord, bank_rows: int, console: Console) -> MadeBank:
    """The bank of a run; the same run gives the same.

    Raises:
        ProcunitError: a photograph is gone or changed, or the masks leave nothing of any.
    """
    photos = bank_photos(record)
    selection = selection_from_photos(model, photos, record, console)
    candidates = candidates_from_photos(model, photos, record, selection, console)
    folds = folds_of_held_out(photos, record.seed)
    with Progress(console=console) as progress:
        coreset = _chosen(candidates.patches, bank_rows, record.seed, progress, "Choosing the bank's rows")
        fold_rows = []
        for fold in range(max(folds.values(), default=-1) + 1):
            others = torch.tensor([folds.get(photo.part_id) != fold for photo in photos])[candidates.photo]
            patches = candidates.patches[others]
            chosen = _chosen(patches, bank_rows, record.seed, progress, f"Bank without fold {fold + 1} of {FOLDS}")
            fold_rows.append(rows_with_reach(patches[chosen.indices]).numpy())
    rows = rows_with_reach(candidates.patches[coreset.indices])
    radius = coreset.covering_radius + candidates.lost_radius
    return MadeBank(rows.numpy(), selection.space, radius, folds, tuple(fold_rows))


def folds_of_held_out(photos: Sequence[RunPhoto], seed: int) -> dict[str, int]:
    """The fold, 0 to `FOLDS` - 1, of each good part that is held out for the thresholds."""
    parts = sorted({photo.part_id for photo in photos if photo.role == "calibrate"})
    random.Random(seed).shuffle(parts)  # noqa: S311  (a repeatable draw, no secret)
    return {part: place % min(FOLDS, len(parts)) for place, part in enumerate(parts)}


def rows_with_reach(rows: Tensor) -> Tensor:
    """Rows [M, D + 1] of patches [M, D]: their reach is their last number; 1 for a bank of one row."""
    others = min(REACH_ROWS, len(rows) - 1)
    if not others:
        return torch.cat((rows, torch.ones(1, 1)), 1)
    block = max(1, _BLOCK_VALUES // len(rows))
    nearest = [torch.cdist(part, rows).topk(others + 1, largest=False).values for part in rows.split(block)]
    reach = torch.cat(nearest)[:, 1:].mean(1, keepdim=True)  # the nearest of all is the row itself
    return torch.cat((rows, reach.clamp(min=_LEAST_REACH)), 1)


def _chosen(patches: Tensor, rows: int, seed: int, progress: Progress, description: str) -> Coreset:
    """The coreset, on a GPU where there is one."""
    task = progress.add_task(description, total=min(rows, len(patches)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coreset = k_center_greedy(patches.to(device), rows, seed, lambda done: progress.update(task, completed=done))
    progress.update(task, completed=min(rows, len(patches)))
    return Coreset(coreset.indices.cpu(), coreset.covering_radius)
