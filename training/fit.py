"""Fit the model to photographs, and cross-validate it by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.preprocess import PATCH_PX
from training.augment import mirrors_of_all
from training.data.dataset import Photo
from training.data.dataset_yaml import DatasetFile
from training.features import Sample, samples_from_photos
from training.findings import Findings
from training.finetune import fine_tuned, samples_from_views, tuned_stages, views_of_photos
from training.full_validation import full_out_of_fold
from training.head import Blend, discriminants, head_from_discriminants, scatter_from_samples
from training.learning_curve import learning_curves
from training.model import InspectionModel
from training.validation import OutOfFold, auc_by_part, blend_from_scores, folds_by_part, out_of_fold

_NOT_OF_THE_TUNED = (
    "the accuracies are those of a head on the pretrained network, from which fine-tuning starts; "
    "--loo full fine-tunes without each part and reports the accuracies of the tuned network"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run trains: whether the last stages are tuned, and whether cross-validation repeats that for each fold."""

    fine_tune: bool
    full: bool


def fit_model(
    model: InspectionModel,
    types: tuple[str, ...],
    photos: Sequence[Photo],
    geometry: Geometry,
    file: DatasetFile,
    plan: Plan,
    seed: int,
    kept: Path,
    console: Console,
) -> Findings:
    """Fit the model's head and, if planned, its last stages, in place; finished folds are saved in the folder `kept`.

    Raises:
        ProcunitError: the masks cover all of every photograph, or the backbone's stages cannot be tuned.
    """
    stages = tuned_stages(model.trunk) if plan.fine_tune else None
    views = views_of_photos(model, photos, geometry, file, seed, console) if stages else []
    mirrors = mirrors_of_all(file, (GOOD, *types), geometry)
    samples = (
        samples_from_views(stages, views, console)
        if stages
        else samples_from_photos(model, photos, geometry, mirrors, seed, console)
    )
    unseen = out_of_fold(samples, types, folds_by_part(samples, types, seed), console)
    if not unseen.clean.weight:
        raise ProcunitError("the masks cover all of every photograph", remedy="Add photographs of good parts")
    blend = blend_from_scores(unseen.scores, samples, types)
    logits, notes = blend.logits(unseen.scores), list[str]()
    model.head = head_from_discriminants(discriminants(samples, types, unseen.clean), blend)
    curves = learning_curves(samples, types, seed, console)
    if stages is not None:
        with Progress(console=console) as progress:
            tuned = fine_tuned(stages, views, types, model.head, seed, progress)
        tuned_samples = samples_from_views(tuned, views, console)
        if plan.full:
            scores = full_out_of_fold(stages, views, types, unseen, blend, seed, kept, console)
            tuned_blend = blend_from_scores(scores, samples, types)
            logits, clean = tuned_blend.logits(scores), scatter_from_samples(tuned_samples)
        else:
            of_tuned = out_of_fold(tuned_samples, types, unseen.fold_of, console)
            tuned_blend, clean = blend_from_scores(of_tuned.scores, samples, types), of_tuned.clean
            notes.append(_NOT_OF_THE_TUNED)
        for stage, of_stage in zip(stages, tuned, strict=True):
            stage.load_state_dict(of_stage.state_dict())
        model.head = head_from_discriminants(discriminants(tuned_samples, types, clean), tuned_blend)
    return Findings(
        types=types,
        photos=tuple(photos),
        logits=logits.numpy(),
        accuracy={name: auc_by_part(logits[:, i].tolist(), samples, name, seed) for i, name in enumerate(types)},
        curves=curves,
        notes=tuple(notes),
        unseen_map=_UnseenMaps(samples, unseen, blend, geometry).of_photo,
    )


@dataclass(frozen=True)
class _UnseenMaps:
    """Defect maps by heads fitted without the part."""

    samples: Sequence[Sample]
    unseen: OutOfFold
    blend: Blend
    geometry: Geometry

    def of_photo(self, index: int) -> NDArray[np.float32]:
        """The maps [tiles, T, h, w] of one photograph; -10 everywhere if no head could be fitted without its part."""
        sample, found = self.samples[index], self.unseen.fitted.get(self.unseen.fold_of[index])
        height, width = self.geometry.input_height_px // PATCH_PX, self.geometry.input_width_px // PATCH_PX
        if found is None:
            return np.full((len(self.geometry.regions), len(self.blend.patch), height, width), -10, np.float32)
        of_patches = sample.patches.double() @ found.patch.t() + found.patch_offset
        of_photo = found.context @ sample.context.double() + found.context_offset
        maps = self.blend.patch * of_patches + self.blend.context * of_photo + self.blend.offset
        tiles = maps.reshape(-1, height, width, maps.shape[1]).permute(0, 3, 1, 2)
        return np.asarray(tiles, np.float32)
