"""torchvision's checkpoints give timm's networks the very features that torchvision computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from edge.errors import ProcunitError
from training.model import pretrained_config, trunk_from_name
from training.torchvision_names import SAME_NETWORKS, timm_names_from_torchvision
from training.weights import trunk_weights

STAGES = (3, 5, 7)
"""torchvision's stages that end at strides 8, 16 and 32."""


def of_torchvision(name: str) -> nn.Module:
    """torchvision's network with drawn weights and drawn batch-norm statistics."""
    torch.manual_seed(0)
    network: nn.Module = getattr(torchvision.models, name)(weights=None).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.load_state_dict(
                {
                    "weight": torch.rand_like(layer.weight) + 0.5,
                    "bias": torch.randn_like(layer.bias) / 5,
                    "running_mean": torch.randn_like(layer.bias) / 3,
                    "running_var": 2 * torch.rand_like(layer.bias) + 0.3,
                    "num_batches_tracked": torch.tensor(7),
                }
            )
    return network


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.inference_mode()
def test_features_are_torchvision_s_own(tmp_path: Path, name: str, suffix: str) -> None:
    theirs, path = of_torchvision(name), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    ours = trunk_from_name(name).eval()
    ours.load_state_dict(dict(trunk_weights(name, path).state))
    image = torch.randn(1, 3, 64, 96)
    found, wanted, features = ours(image), [], image
    for place, stage in enumerate(theirs.get_submodule("features").children()):
        features = stage(features)
        if place in STAGES:
            wanted.append(features)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


def test_every_name_of_the_classifier_is_known() -> None:
    state = timm_names_from_torchvision(of_torchvision("efficientnet_b0").state_dict())
    assert state.keys() == timm.create_model("efficientnet_b0", pretrained=False).state_dict().keys()


@pytest.mark.parametrize("name", SAME_NETWORKS)
def test_pixels_have_torchvision_s_mean_and_spread(name: str) -> None:
    config = pretrained_config(name)
    assert (config.mean, config.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("backbone", ["tf_efficientnet_b0", "efficientnet_b1", "efficientnet_b5"])
def test_another_network_under_torchvision_s_names_is_refused(tmp_path: Path, backbone: str) -> None:
    torch.save(of_torchvision("efficientnet_b0").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ProcunitError, match=f"torchvision has no such network as {backbone}") as raised:
        trunk_weights(backbone, tmp_path / "w.pth")
    assert "--backbone" in str(raised.value.remedy)


def test_another_size_is_named_by_its_first_misfit(tmp_path: Path) -> None:
    torch.save(of_torchvision("efficientnet_b0").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ProcunitError, match=r"do not fit efficientnet_b3: conv_stem\.weight has the shape \(32, 3"):
        trunk_weights("efficientnet_b3", tmp_path / "w.pth")
