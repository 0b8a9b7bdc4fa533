"""The memory bank of a run: rows that cover the patches of good parts, each with its reach.

Good parts that were set aside for the thresholds are in the bank, too. So that each of them can still be judged as a
new part would be, there are banks without a fold of them; the thresholds are taken from those.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from edge.bundle.manifest import GOOD
from export.bank.candidates import (
    Candidates,
    Reader,
    candidates_from_photos,
    patches_from_photo,
    places_by_part,
    selection_from_photos,
)
from export.bank.coreset import Coreset, k_center_greedy
from export.bank.space import Matrix, PatchSpace
from export.bank.suspects import Suspect, suspects_from_candidates
from training.data.run_files import RunPhoto, TrainRecord
from training.model import InspectionModel

REACH_ROWS = 9
"""A row lies as far apart as its mean distance to this many of the other rows (PatchCore re-weights by nine); its reach
is the geometric mean of that and of what is usual in the bank."""
FOLDS = 5
LIKELY_LOGIT, MOST_LIKELY = 1.0, 0.1
"""Logit of the head from which a good part is left out whole (a probability of 0.73), and the share of parts that may
be: not all of a defect is marked by its map."""
_LEAST_REACH = 1e-3
_BLOCK_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class MadeBank:
    """The bank's rows [M, D + 1], the space they are in, and the banks without each fold of the held-out good parts.

    `fold_of` names the fold of each held-out good part. No clean patch of the photographs is farther than
    `covering_radius` from a row, in the space's own units; `lost_radius` of it comes from photographs that gave a share
    of their patches. `part_of_row` [M] names the part that each row is of, `left_out` is the share of the patches that
    look like a defect and were kept out, and `suspects` are good parts to look at again.
    """

    rows: Matrix
    space: PatchSpace
    part_of_row: NDArray[np.str_]
    covering_radius: float
    lost_radius: float
    left_out: float
    suspects: tuple[Suspect, ...]
    fold_of: Mapping[str, int]
    fold_rows: tuple[Matrix, ...]


@dataclass(frozen=True, eq=False)
class GoodPatches:
    """What a bank is made from: the photographs' patches in its space; those that are `likely` [photos] give no row."""

    photos: Sequence[RunPhoto]
    space: PatchSpace
    candidates: Candidates
    likely: NDArray[np.bool_]

    @property
    def allowed(self) -> Candidates:
        """The candidates of the photographs that may give rows."""
        allowed = torch.from_numpy(~self.likely)[self.candidates.photo]
        return replace(self.candidates, patches=self.candidates.patches[allowed], photo=self.candidates.photo[allowed])


def bank_photos(record: TrainRecord) -> list[RunPhoto]:
    """The photographs that the bank is made of: good ones that are not seeded, else the taught defects."""
    good = [photo for photo in record.photos if photo.label == GOOD and photo.role != "seed"]
    return good or [photo for photo in record.photos if photo.role == "train"]


def made_bank(model: InspectionModel, record: TrainRecord, bank_rows: int, console: Console) -> MadeBank:
    """The bank of a run; the same run gives the same.

    Raises:
        ProcunitError: a photograph is gone or changed, or the masks leave nothing of any.
    """
    good = good_patches(partial(patches_from_photo, model, record=record), model.channels_of_stride8, record, console)
    photos, chosen_from = good.photos, good.allowed
    folds = folds_of_held_out(photos, record.seed)
    with Progress(console=console) as progress:
        coreset = _chosen(chosen_from.patches, bank_rows, record.seed, progress, "Choosing the bank's rows")
        fold_rows = []
        for fold in range(max(folds.values(), default=-1) + 1):
            others = torch.tensor([folds.get(photo.part_id) != fold for photo in photos])[chosen_from.photo]
            patches = chosen_from.patches[others]
            chosen = _chosen(patches, bank_rows, record.seed, progress, f"Bank without fold {fold + 1} of {FOLDS}")
            fold_rows.append(rows_with_reach(patches[chosen.indices]).numpy())
    rows = rows_with_reach(chosen_from.patches[coreset.indices]).numpy()
    part_of_row = np.array([photo.part_id for photo in photos])[chosen_from.photo[coreset.indices].numpy()]
    return MadeBank(
        rows=rows,
        space=good.space,
        part_of_row=part_of_row,
        covering_radius=coreset.covering_radius + good.candidates.lost_radius,
        lost_radius=good.candidates.lost_radius,
        left_out=float(good.candidates.marked.mean()),
        suspects=suspects_from_candidates(photos, good.candidates, rows, part_of_row, record.types),
        fold_of=folds,
        fold_rows=tuple(fold_rows),
    )


def good_patches(read: Reader, fine: int, record: TrainRecord, console: Console) -> GoodPatches:
    """The patches that a run's bank is made from, as they are read; the first `fine` features are stride 8's.

    Raises:
        ProcunitError: a photograph cannot be read, or the masks leave nothing of any.
    """
    photos = bank_photos(record)
    selection = selection_from_photos(read, fine, photos, record, console)
    candidates = candidates_from_photos(read, photos, record, selection, console)
    likely = _of_likely_defects(photos, candidates)
    candidates = replace(candidates, marked=np.where(likely, np.float32(1), candidates.marked))
    return GoodPatches(photos, selection.space, candidates, likely)


def _of_likely_defects(photos: Sequence[RunPhoto], candidates: Candidates) -> NDArray[np.bool_]:
    """Which photographs are of good parts that the head is nearly sure are defects; few at most."""
    places = places_by_part(photos)
    sure = {part: float(candidates.logits[own].mean(0).max(initial=-np.inf)) for part, own in places.items()}
    likely = sorted((part for part in sure if sure[part] > LIKELY_LOGIT), key=lambda part: -sure[part])
    out = set(likely[: min(math.ceil(MOST_LIKELY * len(places)), len(places) - 1)])
    return np.array([photo.part_id in out for photo in photos])


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
    nearest = [torch.cdist(part, rows).topk(others + 1, largest=False).values for part in torch.split(rows, block)]
    apart = torch.cat(nearest)[:, 1:].mean(1, keepdim=True)  # the nearest of all is the row itself
    return torch.cat((rows, (apart * apart.median()).sqrt().clamp(min=_LEAST_REACH)), 1)


def _chosen(patches: Tensor, rows: int, seed: int, progress: Progress, description: str) -> Coreset:
    """The coreset, on a GPU where there is one."""
    task = progress.add_task(description, total=min(rows, len(patches)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coreset = k_center_greedy(patches.to(device), rows, seed, lambda done: progress.update(task, completed=done))
    progress.update(task, completed=min(rows, len(patches)))
    return Coreset(coreset.indices.cpu(), coreset.covering_radius)
