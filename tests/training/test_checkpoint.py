"""A checkpoint names its run, and cannot be used with another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edge.errors import ProcunitError
from tests.support.photographs import BACKBONE
from tests.training.records import RECORD
from training.checkpoint import origin_from_checkpoint, origin_from_record, save_checkpoint
from training.data.run_files import CHECKPOINT_FILE, TRAIN_FILE
from training.model import InspectionModel, model_from_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(InspectionModel(BACKBONE, 2, RECORD.geometry.channels), tmp_path, RECORD)
    return tmp_path


def test_a_checkpoint_holds_the_record_s_essentials_and_every_tensor(run: Path) -> None:
    path = run / CHECKPOINT_FILE
    origin = origin_from_checkpoint(path)
    assert origin == origin_from_record(RECORD)
    assert origin is not None
    assert (origin.backbone, origin.types, origin.geometry) == (BACKBONE, ("line", "spot"), RECORD.geometry)
    assert (origin.dataset_sha256, origin.seed, origin.packages) == ("d" * 64, 3, RECORD.packages)
    with safe_open(path, framework="pt") as file:
        assert all(isinstance(text, str) for text in file.metadata().values())
    model, state = model_from_checkpoint(run, RECORD), load_file(path)
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    save_checkpoint(model_from_checkpoint(run, RECORD), again, RECORD)
    assert (again / CHECKPOINT_FILE).read_bytes() == (run / CHECKPOINT_FILE).read_bytes()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"backbone": "efficientnet_b3"}, f"backbone {BACKBONE}, while {TRAIN_FILE} beside it has efficientnet_b3"),
        ({"types": ("line", "stain")}, f"types line, spot, while {TRAIN_FILE} beside it has line, stain"),
        ({"dataset_sha256": "e" * 64}, f"dataset_sha256 {'d' * 64}, while {TRAIN_FILE} beside it has {'e' * 64}"),
        ({"seed": 4}, f"seed 3, while {TRAIN_FILE} beside it has 4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(run: Path, other: dict[str, object], message: str) -> None:
    with pytest.raises(ProcunitError, match="the checkpoint of another run") as raised:
        model_from_checkpoint(run, RECORD.model_copy(update=other))
    assert message in raised.value.what
    assert raised.value.where == str(run / CHECKPOINT_FILE)


def test_a_moved_folder_and_a_renamed_product_are_still_the_same_run(run: Path) -> None:
    model_from_checkpoint(run, RECORD.model_copy(update={"data": "/elsewhere", "product": "bracket 2"}))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_checkpoint_without_origin_is_refused(run: Path, metadata: dict[str, str] | None) -> None:
    save_file(load_file(run / CHECKPOINT_FILE), run / CHECKPOINT_FILE, metadata)
    with pytest.raises(ProcunitError, match=r"does not name the run it belongs to.*`procunit train` again"):
        model_from_checkpoint(run, RECORD)


@pytest.mark.parametrize("header", ["", "{}", "[1]", '{"backbone": 3}'])
def test_a_damaged_header_is_refused(run: Path, header: str) -> None:
    save_file(load_file(run / CHECKPOINT_FILE), run / CHECKPOINT_FILE, {"procunit_edge": header})
    with pytest.raises(ProcunitError, match="the checkpoint's header"):
        model_from_checkpoint(run, RECORD)


def test_a_missing_and_a_damaged_file_are_named(run: Path) -> None:
    (run / CHECKPOINT_FILE).write_bytes(b"truncated")
    with pytest.raises(ProcunitError, match=r"not a readable checkpoint.*procunit train"):
        model_from_checkpoint(run, RECORD)
    (run / CHECKPOINT_FILE).unlink()
    with pytest.raises(ProcunitError, match=r"not a readable checkpoint.*procunit train"):
        model_from_checkpoint(run, RECORD)


def test_tensors_of_another_model_are_refused(run: Path) -> None:
    save_checkpoint(InspectionModel(BACKBONE, 1, 1), run, RECORD)
    with pytest.raises(ProcunitError, match="not this run's checkpoint"):
        model_from_checkpoint(run, RECORD)
