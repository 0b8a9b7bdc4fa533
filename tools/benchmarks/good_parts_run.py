"""A model and a train record of good parts only, without a training: for benchmarks and drills."""

from __future__ import annotations

from collections.abc import Sequence

from edge.geometry import Geometry
from training.data.dataset import Dataset, Photo
from training.data.run_files import RunPhoto, TrainRecord
from training.model import InspectionModel
from training.weights import TrunkWeights


def model_without_types(weights: TrunkWeights, geometry: Geometry) -> InspectionModel:
    """A model with the given trunk weights and no head."""
    model = InspectionModel(weights.backbone, 0, geometry.channels)
    model.trunk.load_state_dict(weights.state)
    return model


def record_of_good_parts(
    dataset: Dataset, taught: Sequence[Photo], weights: TrunkWeights, geometry: Geometry, seed: int, made_for: str
) -> TrainRecord:
    """The record that `procunit train` would write if all these photographs were training photographs."""
    return TrainRecord(
        data=str(dataset.root.resolve()),
        dataset_sha256=dataset.sha256,
        product=made_for,
        seed=seed,
        backbone=weights.backbone,
        weights=weights.source,
        geometry=geometry,
        types=(),
        photos=tuple(
            RunPhoto(sha256=p.sha256, part_id=p.part_id, label=p.label, role="train", file=p.file) for p in taught
        ),
        out_of_fold_auc={},
        packages={},
        code_version=made_for,
    )
