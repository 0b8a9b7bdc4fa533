"""Learning on a real GPU: the features are the CPU's, and the last stages are tuned there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from edge.geometry import Geometry
from tests.support.photographs import BACKBONE, write_photographs, write_weights
from training.data.dataset import dataset_from_folder
from training.data.dataset_yaml import dataset_file_from_folder
from training.features import Sample, samples_from_photos
from training.finetune import fine_tuned, samples_from_views, tuned_stages, views_of_photos
from training.model import DefectHead, InspectionModel, device_to_learn_on
from training.weights import trunk_weights

QUIET = Console(quiet=True)
TYPES = ("line", "spot")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_features_are_the_cpu_s_and_stages_are_tuned(tmp_path: Path) -> None:
    data = dataset_from_folder(write_photographs(tmp_path / "data", 8, {"spot": 6, "line": 6}))
    file = dataset_file_from_folder(tmp_path / "data")
    geometry = Geometry(input_height_px=64, input_width_px=64, channels=1)
    model = InspectionModel(BACKBONE, len(TYPES), 1)
    model.trunk.load_state_dict(trunk_weights(BACKBONE, write_weights(tmp_path / "w.safetensors")).state)
    on_cpu = samples_from_photos(model, data.photos, geometry, (), 0, QUIET)
    device = device_to_learn_on()
    assert device.type == "cuda"
    model.to(device)
    _check_alike(samples_from_photos(model, data.photos, geometry, (), 0, QUIET), on_cpu)
    stages = tuned_stages(model.trunk)
    views = views_of_photos(model, data.photos, geometry, file, 0, QUIET)
    _check_alike(samples_from_views(stages, views, QUIET), on_cpu)
    head = DefectHead(on_cpu[0].patches.shape[1], len(TYPES))
    tuned = fine_tuned(stages, views, TYPES, head, 0, Progress(disable=True))
    for before, after in zip(stages.parameters(), tuned.parameters(), strict=True):
        assert after.device.type == "cuda"
        assert torch.isfinite(after).all()
        assert not torch.equal(before, after)


def _check_alike(found: list[Sample], wanted: list[Sample]) -> None:
    for sample, other in zip(found, wanted, strict=True):
        assert sample.patches.device.type == "cpu"
        torch.testing.assert_close(sample.patches.float(), other.patches.float(), atol=0.02, rtol=0.02)
