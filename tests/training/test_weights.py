"""Weights of the trunk: the given file, checked, or an error."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from edge.errors import ProcunitError
from tests.support.photographs import BACKBONE, write_weights
from tests.training.records import RECORD
from training.checkpoint import save_checkpoint
from training.data.run_files import CHECKPOINT_FILE
from training.model import InspectionModel
from training.weights import STAND_IN, trunk_weights


class Surprise:
    """What a torch file must not be able to bring to life."""


def _earlier_run(run: Path) -> InspectionModel:
    """A run's checkpoint; its model has a trunk that no weights file has."""
    torch.manual_seed(7)
    model = InspectionModel(BACKBONE, 2, 1)
    save_checkpoint(model, run, RECORD)
    return model


def test_a_named_file_is_used_as_it_is(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.safetensors")
    found = trunk_weights(BACKBONE, path)
    state = load_file(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.backbone, found.source, found.warning) == (BACKBONE, f"w.safetensors, sha256 {digest}", None)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state.items())


def test_a_torch_file_is_read_as_plain_tensors(tmp_path: Path) -> None:
    torch.save(load_file(write_weights(tmp_path / "w.safetensors")), tmp_path / "w.pth")
    assert trunk_weights(BACKBONE, tmp_path / "w.pth").state.keys() <= load_file(tmp_path / "w.safetensors").keys()


def test_a_torch_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"conv_stem.weight": Surprise()}, tmp_path / "w.pth")
    with pytest.raises(ProcunitError, match="cannot be read as weights"):
        trunk_weights(BACKBONE, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64], ids=["empty", "text", "bytes"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ProcunitError, match="cannot be read as weights") as raised:
        trunk_weights(BACKBONE, path)
    assert raised.value.where == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="cannot be read as weights"):
        trunk_weights(BACKBONE, tmp_path / "none.safetensors")


def test_a_torch_file_that_holds_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(ProcunitError, match="no plain state dict"):
        trunk_weights(BACKBONE, tmp_path / "w.pth")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
def test_wrappers_of_training_scripts_are_removed(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = load_file(write_weights(tmp_path / "w.safetensors"))
    wrapped = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    torch.save({wrapper: wrapped, "epoch": 7, "optimizer": {"lr": 0.1}} if wrapper else wrapped, tmp_path / "w.pth")
    found = trunk_weights(BACKBONE, tmp_path / "w.pth").state
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


@pytest.mark.parametrize("features_only", [False, True], ids=["classifier", "features only"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_s_own_state_dicts_of_b3_are_taken_by_name(tmp_path: Path, features_only: bool, suffix: str) -> None:
    state = timm.create_model("efficientnet_b3", pretrained=False, features_only=features_only).state_dict()
    path = tmp_path / f"b3{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    found = trunk_weights("efficientnet_b3", path)
    assert (found.backbone, found.warning) == ("efficientnet_b3", None)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state.items())


def test_an_earlier_run_s_trunk_is_used_with_a_warning_about_its_photographs(tmp_path: Path) -> None:
    model = _earlier_run(tmp_path)
    found = trunk_weights(BACKBONE, tmp_path / CHECKPOINT_FILE)
    assert all(torch.equal(tensor, model.trunk.state_dict()[name]) for name, tensor in found.state.items())
    assert found.warning is not None
    assert "seeded.json" in found.warning


def test_an_earlier_run_with_another_backbone_is_refused(tmp_path: Path) -> None:
    _earlier_run(tmp_path)
    with pytest.raises(ProcunitError, match=f"a run with {BACKBONE}, not efficientnet_b0. Add --backbone {BACKBONE}"):
        trunk_weights("efficientnet_b0", tmp_path / CHECKPOINT_FILE)


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, "w.pth"])
def test_a_trunk_without_the_name_of_its_backbone_is_refused(tmp_path: Path, name: str) -> None:
    state = _earlier_run(tmp_path).state_dict()
    if name.endswith(".pth"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    with pytest.raises(ProcunitError, match="does not name its backbone"):
        trunk_weights(BACKBONE, tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, {"model": {"a": [1]}}, {1: torch.ones(1)}])
def test_a_torch_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ProcunitError, match=r"no plain state dict.*Save model.state_dict\(\)"):
        trunk_weights(BACKBONE, tmp_path / "w.pth")


@pytest.mark.parametrize("change", ["missing", "shape", "infinite"])
def test_weights_of_another_network_are_refused(tmp_path: Path, change: str) -> None:
    state = load_file(write_weights(tmp_path / "w.safetensors"))
    name = "blocks.2.0.conv_dw.weight" if "blocks.2.0.conv_dw.weight" in state else "conv_stem.weight"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = state[name][:1].clone()
    else:
        state[name] = torch.full_like(state[name], torch.inf)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ProcunitError, match=f"do not fit {BACKBONE}: {name}"):
        trunk_weights(BACKBONE, tmp_path / "other.safetensors")


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(ProcunitError, match="'efficientnet_x9'"):
        trunk_weights("efficientnet_x9", None)


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_a_backbone_without_the_three_strides_is_refused(tmp_path: Path, backbone: str) -> None:
    with pytest.raises(ProcunitError, match=backbone):
        trunk_weights(backbone, write_weights(tmp_path / "w.safetensors", backbone))


def test_the_packaged_weights_are_imagenet_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there, so the hub cannot be reached
    monkeypatch.setattr("training.weights.try_to_load_from_cache", lambda *_: None)
    found = trunk_weights("efficientnet_b3", None)
    assert found.backbone == STAND_IN
    assert found.warning is not None
    assert "is used instead of efficientnet_b3" in found.warning
    trunk = timm.create_model(STAND_IN, features_only=True, out_indices=(2, 3, 4)).eval()
    trunk.load_state_dict(dict(found.state))
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    with torch.no_grad():
        variation = trunk(edge)[0].flatten(2).std(2).mean()
    assert variation > 0.05, "features of an edge are flat: the weights are in the wrong tensors"
    assert trunk_weights(STAND_IN, None).warning is None
