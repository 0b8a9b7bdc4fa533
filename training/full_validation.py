"""Leave-one-part-out cross-validation of the whole fine-tuning: each part is scored by a network tuned without it.

Folds run in parallel, one per core. Each fold's scores are saved when it is done, so that an interrupted run can be
resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load, save
from torch import Tensor, nn

from edge.system.files import bytes_from_file, write_whole
from edge.system.tensor_file import MAX_TENSOR_BYTES
from training.finetune import Views, fine_tuned, sample_from_views
from training.head import Blend, discriminants, head_from_discriminants, scatter_from_samples
from training.model import each_on_one_core
from training.validation import OutOfFold, scores_of_unseen

_SCORES = "scores"


def full_out_of_fold(
    stages: nn.ModuleList,
    views: Sequence[Views],
    types: Sequence[str],
    frozen: OutOfFold,
    blend: Blend,
    seed: int,
    kept: Path,
    console: Console,
) -> Tensor:
    """Scores [n, 2, T] as in `OutOfFold`, but with each fold's stages tuned without its parts.

    `frozen` and `blend` are of the untuned stages, from which each fold starts; `kept` is the folder of finished folds.
    """
    kept.mkdir(parents=True, exist_ok=True)

    def of_fold(fold: int) -> Tensor:
        left_out = [x for x, of in zip(views, frozen.fold_of, strict=True) if of == fold]
        rest = [x for x, of in zip(views, frozen.fold_of, strict=True) if of != fold]
        head = head_from_discriminants(frozen.fitted[fold], blend)
        path = kept / f"{_key(head.state_dict(), types, seed, left_out)}.safetensors"
        if path.is_file():
            return load(bytes_from_file(path, MAX_TENSOR_BYTES))[_SCORES]
        tuned = fine_tuned(stages, rest, types, head, seed, Progress(disable=True))
        samples = [sample_from_views(tuned, x) for x in rest]
        found = discriminants(samples, types, scatter_from_samples(samples))
        scores = scores_of_unseen(found, rest, [sample_from_views(tuned, x) for x in left_out], types)
        write_whole(path, save({_SCORES: scores}))
        return scores

    scores = torch.full_like(frozen.scores, torch.nan)
    folds = sorted(frozen.fitted)
    done = each_on_one_core(of_fold, folds, "Fine-tuning without each part", console)
    for fold, found in zip(folds, done, strict=True):
        scores[[i for i, of in enumerate(frozen.fold_of) if of == fold]] = found
    return scores


def _key(head: dict[str, Tensor], types: Sequence[str], seed: int, left_out: Sequence[Views]) -> str:
    """The file name of a fold's scores: the hashed head depends on data, geometry, trunk and the held-out parts."""
    digest = hashlib.sha256(f"{seed} {list(types)} {[(x.label, x.part_id) for x in left_out]}".encode())
    digest.update(save(head))
    return digest.hexdigest()[:32]
