"""Fine-tuning improves the last stages and nothing else, is repeatable, and can be cross-validated by part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from tests.support.photographs import BACKBONE, write_photographs, write_weights
from training import finetune
from training.data.dataset import dataset_from_folder
from training.data.dataset_yaml import dataset_file_from_folder
from training.features import samples_from_photos
from training.finetune import Views, fine_tuned, samples_from_views, tuned_stages, views_of_photos
from training.full_validation import full_out_of_fold
from training.head import discriminants, head_from_discriminants, scatter_from_samples
from training.model import DefectHead, InspectionModel, trunk_from_name
from training.validation import OutOfFold, blend_from_scores, folds_by_part, out_of_fold
from training.weights import trunk_weights

QUIET = Console(quiet=True)
TYPES = ("line", "spot")
SIDE_PX = 64


class Made:
    """A model with random weights, views of a few rendered parts, and the initial head."""

    def __init__(self, folder: Path) -> None:
        self.data = dataset_from_folder(write_photographs(folder / "data", 8, {"spot": 6, "line": 6}))
        self.file = dataset_file_from_folder(folder / "data")
        self.geometry = Geometry(input_height_px=SIDE_PX, input_width_px=SIDE_PX, channels=1)
        self.model = InspectionModel(BACKBONE, len(TYPES), 1)
        self.model.trunk.load_state_dict(trunk_weights(BACKBONE, write_weights(folder / "w.safetensors")).state)
        self.stages = tuned_stages(self.model.trunk)
        self.views = self.views_in(self.geometry)
        self.samples = samples_from_views(self.stages, self.views, QUIET)
        self.unseen: OutOfFold = out_of_fold(self.samples, TYPES, folds_by_part(self.samples, TYPES, 0), QUIET)
        self.blend = blend_from_scores(self.unseen.scores, self.samples, TYPES)
        self.head: DefectHead = head_from_discriminants(
            discriminants(self.samples, TYPES, self.unseen.clean), self.blend
        )

    def views_in(self, geometry: Geometry) -> list[Views]:
        return views_of_photos(self.model, self.data.photos, geometry, self.file, 0, QUIET)

    def tuned(self) -> torch.nn.ModuleList:
        return fine_tuned(self.stages, self.views, TYPES, self.head, 0, Progress(disable=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def high_rates() -> Iterator[None]:
    """Higher learning rates: random weights learn nothing at a pretrained network's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "LEARNING_RATES", (1e-2, 1e-2, 1e-2))
        patch.setattr(finetune, "AVERAGED_STEPS", 5)
        yield


@pytest.fixture(scope="module")
def tuned(made: Made, high_rates: None) -> torch.nn.ModuleList:
    """Stages tuned once; tests only read them."""
    return made.tuned()


def test_the_first_view_is_the_photograph_as_the_device_sees_it(made: Made) -> None:
    wanted = samples_from_photos(made.model, made.data.photos, made.geometry, (), 0, QUIET)
    for found, exact in zip(made.samples, wanted, strict=True):
        assert (found.label, found.part_id) == (exact.label, exact.part_id)
        torch.testing.assert_close(found.patches.float(), exact.patches.float(), atol=0.02, rtol=0.02)
        assert (found.coverage is None) == (exact.coverage is None)
        if exact.coverage is not None and found.coverage is not None:
            torch.testing.assert_close(found.coverage, exact.coverage)


def test_views_differ_and_keep_their_masks(made: Made) -> None:
    for x in made.views:
        assert not torch.equal(x.middle[0], x.middle[1])
        if x.coverage is not None:
            assert (x.coverage.flatten(1).sum(1) > 0).all(), "every view shows its defect"


def test_weights_change_and_batch_norms_keep_their_statistics(made: Made, high_rates: None) -> None:
    before = {name: value.clone() for name, value in made.stages.state_dict().items()}
    tuned = made.tuned()
    after = tuned.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.endswith("weight"))
    for name, value in before.items():
        torch.testing.assert_close(
            made.stages.state_dict()[name], value, msg="the model's stages are copied, not changed"
        )
        if "running" in name:
            torch.testing.assert_close(after[name], value)
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_tuning_is_repeatable(made: Made, tuned: torch.nn.ModuleList, high_rates: None) -> None:
    first, second = tuned.state_dict(), made.tuned().state_dict()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=0, rtol=0)


def test_a_tuned_network_separates_its_own_photographs_better(made: Made, tuned: torch.nn.ModuleList) -> None:
    def spread(stages: torch.nn.ModuleList) -> float:
        samples = samples_from_views(stages, made.views, QUIET)
        found = discriminants(samples, TYPES, scatter_from_samples(samples))
        scores = torch.stack([found.scores(x)[0] for x in samples])
        of_type = torch.tensor([[x.label == name for name in TYPES] for x in samples])
        return float((scores[of_type].mean() - scores[~of_type].mean()) / scores[~of_type].std())

    assert spread(tuned) > spread(made.stages)


def test_tiles_are_tuned_separately(made: Made) -> None:
    halves = (Region(x=0, y=0, width=0.5, height=1), Region(x=0.5, y=0, width=0.5, height=1))
    views = made.views_in(made.geometry.model_copy(update={"regions": halves}))
    assert views[0].middle.shape[:2] == (finetune.VIEWS, 2)
    fine_tuned(made.stages, views, TYPES, made.head, 0, Progress(disable=True))


def test_each_fold_is_tuned_without_its_parts_and_kept(made: Made, tmp_path: Path, high_rates: None) -> None:
    arguments = (made.stages, made.views, TYPES, made.unseen, made.blend, 0, tmp_path / "kept", QUIET)
    scores = full_out_of_fold(*arguments)
    assert torch.isfinite(scores).all()
    fold = made.unseen.fold_of[0]
    rest = [x for x, of in zip(made.views, made.unseen.fold_of, strict=True) if of != fold]
    head = head_from_discriminants(made.unseen.fitted[fold], made.blend)
    tuned = fine_tuned(made.stages, rest, TYPES, head, 0, Progress(disable=True))
    samples = samples_from_views(tuned, rest, QUIET)
    wanted = discriminants(samples, TYPES, scatter_from_samples(samples)).scores(
        samples_from_views(tuned, made.views[:1], QUIET)[0]
    )
    torch.testing.assert_close(scores[0], wanted, atol=1e-4, rtol=1e-3)
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == len(made.unseen.fitted)
    for file in files[1:]:
        file.unlink()
    torch.testing.assert_close(full_out_of_fold(*arguments), scores, atol=1e-4, rtol=1e-3)


def test_a_backbone_without_a_list_of_blocks_is_refused_in_words() -> None:
    with pytest.raises(ProcunitError, match="cannot be tuned separately") as caught:
        tuned_stages(trunk_from_name("resnet18"))
    assert "--frozen" in str(caught.value)
