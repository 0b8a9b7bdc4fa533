"""The memory bank of a run: a coreset of the good parts' patches, each row with its local scale.

The good parts held out for the thresholds are in the bank too. To score each of them as a new part would be scored, one
more bank per fold is built without the parts of that fold; the thresholds come from these banks.
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
    PatchReader,
    candidates_from_photos,
    patches_from_photo,
    photo_indices_by_part,
    selection_from_photos,
)
from export.bank.coreset import Coreset, k_center_greedy
from export.bank.space import Matrix, PatchSpace
from export.bank.suspects import Suspect, suspects_from_candidates
from training.data.run_files import RunPhoto, TrainRecord
from training.model import InspectionModel

SCALE_NEIGHBOURS = 9
"""A row's local scale is the geometric mean of its mean distance to this many nearest rows (PatchCore re-weights by
nine) and of the bank's median of that distance; `edge.anomaly` divides distances by it."""
FOLDS = 5
LIKELY_DEFECTIVE_LOGIT, MAX_LIKELY_DEFECTIVE_SHARE = 1.0, 0.1
"""A good part is excluded whole from this logit of the head on (a probability of 0.73), but at most this share of the
parts is. The defect map alone is not enough: it does not cover all of a defect."""
_MIN_LOCAL_SCALE = 1e-3
_BLOCK_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """The bank's rows [M, D + 1], their space, and per fold a bank built without that fold's held-out good parts.

    `fold_of` maps each held-out good part to its fold. No allowed patch of the photographs is farther than
    `covering_radius` from a row, in the units of the space; `subsampling_radius` is the share of it that comes from
    subsampling the photographs. `part_of_row` [M] names each row's part, `excluded_share` is the share of patches
    excluded because they look like a defect, and `suspects` are good parts that may be mislabelled.
    """

    rows: Matrix
    space: PatchSpace
    part_of_row: NDArray[np.str_]
    covering_radius: float
    subsampling_radius: float
    excluded_share: float
    suspects: tuple[Suspect, ...]
    fold_of: Mapping[str, int]
    fold_rows: tuple[Matrix, ...]


@dataclass(frozen=True, eq=False)
class GoodPatches:
    """What a bank is built from: the photographs' candidate patches in its space.

    `likely_defective` [photographs] marks the photographs that give no row.
    """

    photos: Sequence[RunPhoto]
    space: PatchSpace
    candidates: Candidates
    likely_defective: NDArray[np.bool_]

    @property
    def allowed(self) -> Candidates:
        """The candidates without those of photographs that are likely defective."""
        found = self.candidates
        allowed = torch.from_numpy(~self.likely_defective)[found.photo_index]
        return replace(found, patches=found.patches[allowed], photo_index=found.photo_index[allowed])


def bank_photos(record: TrainRecord) -> list[RunPhoto]:
    """The photographs that the bank is built from: good ones outside the seeded run, else the taught defects."""
    good = [photo for photo in record.photos if photo.label == GOOD and photo.role != "seed"]
    return good or [photo for photo in record.photos if photo.role == "train"]


def build_memory_bank(model: InspectionModel, record: TrainRecord, bank_rows: int, console: Console) -> MemoryBank:
    """Build the memory bank of a run; the same run always gives the same bank.

    Raises:
        ProcunitError: a photograph is missing or has changed, or the masks cover every patch.
    """
    good = good_patches(partial(patches_from_photo, model, record=record), model.channels_of_stride8, record, console)
    photos, candidates = good.photos, good.allowed
    folds = folds_of_held_out(photos, record.seed)
    with Progress(console=console) as progress:
        coreset = _coreset(candidates.patches, bank_rows, record.seed, progress, "Choosing the bank's rows")
        fold_rows = []
        for fold in range(max(folds.values(), default=-1) + 1):
            others = torch.tensor([folds.get(photo.part_id) != fold for photo in photos])[candidates.photo_index]
            patches = candidates.patches[others]
            chosen = _coreset(patches, bank_rows, record.seed, progress, f"Bank without fold {fold + 1} of {FOLDS}")
            fold_rows.append(rows_with_local_scale(patches[chosen.indices]).numpy())
    rows = rows_with_local_scale(candidates.patches[coreset.indices]).numpy()
    part_of_row = np.array([photo.part_id for photo in photos])[candidates.photo_index[coreset.indices].numpy()]
    return MemoryBank(
        rows=rows,
        space=good.space,
        part_of_row=part_of_row,
        covering_radius=coreset.covering_radius + good.candidates.subsampling_radius,
        subsampling_radius=good.candidates.subsampling_radius,
        excluded_share=float(good.candidates.excluded_share.mean()),
        suspects=suspects_from_candidates(photos, good.candidates, rows, part_of_row, record.types),
        fold_of=folds,
        fold_rows=tuple(fold_rows),
    )


def good_patches(read: PatchReader, stride8_features: int, record: TrainRecord, console: Console) -> GoodPatches:
    """Read the patches that a run's bank is built from; their first `stride8_features` features come from stride 8.

    Raises:
        ProcunitError: a photograph cannot be read, or the masks cover every patch.
    """
    photos = bank_photos(record)
    selection = selection_from_photos(read, stride8_features, photos, record, console)
    candidates = candidates_from_photos(read, photos, record, selection, console)
    likely_defective = _likely_defective(photos, candidates)
    excluded_share = np.where(likely_defective, np.float32(1), candidates.excluded_share)
    return GoodPatches(photos, selection.space, replace(candidates, excluded_share=excluded_share), likely_defective)


def _likely_defective(photos: Sequence[RunPhoto], candidates: Candidates) -> NDArray[np.bool_]:
    """Which photographs [photographs] show a good part that the head very likely takes for defective."""
    indices_of = photo_indices_by_part(photos)
    logit_of = {part: float(candidates.logits[own].mean(0).max(initial=-np.inf)) for part, own in indices_of.items()}
    likely = [part for part, logit in logit_of.items() if logit > LIKELY_DEFECTIVE_LOGIT]
    likely.sort(key=lambda part: -logit_of[part])
    limit = min(math.ceil(MAX_LIKELY_DEFECTIVE_SHARE * len(indices_of)), len(indices_of) - 1)
    excluded = set(likely[:limit])
    return np.array([photo.part_id in excluded for photo in photos])


def folds_of_held_out(photos: Sequence[RunPhoto], seed: int) -> dict[str, int]:
    """The fold, 0 to `FOLDS` - 1, of each good part that is held out for the thresholds."""
    parts = sorted({photo.part_id for photo in photos if photo.role == "calibrate"})
    random.Random(seed).shuffle(parts)  # noqa: S311  (a repeatable draw, no secret)
    return {part: index % min(FOLDS, len(parts)) for index, part in enumerate(parts)}


def rows_with_local_scale(rows: Tensor) -> Tensor:
    """Append the local scale of each row to the rows [M, D]: [M, D + 1]; it is 1 in a bank of one row."""
    others = min(SCALE_NEIGHBOURS, len(rows) - 1)
    if not others:
        return torch.cat((rows, torch.ones(1, 1)), 1)
    block = max(1, _BLOCK_VALUES // len(rows))
    nearest = [torch.cdist(part, rows).topk(others + 1, largest=False).values for part in torch.split(rows, block)]
    mean_distance = torch.cat(nearest)[:, 1:].mean(1, keepdim=True)  # the nearest row is the row itself
    return torch.cat((rows, (mean_distance * mean_distance.median()).sqrt().clamp(min=_MIN_LOCAL_SCALE)), 1)


def _coreset(patches: Tensor, rows: int, seed: int, progress: Progress, description: str) -> Coreset:
    """Compute the coreset, on a GPU if there is one, and show its progress."""
    task = progress.add_task(description, total=min(rows, len(patches)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coreset = k_center_greedy(patches.to(device), rows, seed, lambda done: progress.update(task, completed=done))
    progress.update(task, completed=min(rows, len(patches)))
    return Coreset(coreset.indices.cpu(), coreset.covering_radius)
