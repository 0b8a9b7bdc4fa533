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
    """torchvision's network with random weights and random batch-norm statistics."""
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
@torch.inference_mode()
def test_features_equal_torchvision_s(tmp_path: Path, name: str) -> None:
    """Whether the weights come from a torch file or a safetensors file."""
    theirs = of_torchvision(name)
    image = torch.randn(1, 3, 64, 96)
    wanted, features = [], image
    for number, stage in enumerate(theirs.get_submodule("features").children()):
        features = stage(features)
        if number in STAGES:
            wanted.append(features)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        ours = trunk_from_name(name).eval()
        ours.load_state_dict(dict(trunk_weights(name, tmp_path / file).state))
        for found, expected in zip(ours(image), wanted, strict=True):
            assert found.shape == expected.shape, file
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), file


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
