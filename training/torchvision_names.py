"""torchvision's EfficientNet checkpoints under timm's names: B0 and B2 to B4 are the same networks in both.

For these, layers, shapes, symmetric padding, batch norm's epsilon (1e-5) and the pixels' mean and deviation agree.
timm's B1 needs another pixel mean and deviation, from B5 on torchvision's epsilon is 1e-3, and timm's
`tf_efficientnet_*` pad differently: the shapes would fit, but the features would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

SAME_NETWORKS = ("efficientnet_b0", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4")
"""timm's names of the networks that torchvision also has."""

_OUTSIDE_BLOCKS = {
    "features.0.0": "conv_stem",
    "features.0.1": "bn1",
    "features.8.0": "conv_head",
    "features.8.1": "bn2",
    "classifier.1": "classifier",
}
_BLOCK = re.compile(r"features\.([1-7])\.(\d+)\.block\.(\d\.\w+)")
"""Groups: stage from 1, block of the stage, layer of the block."""
_EXPANDED = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2.fc1": "se.conv_reduce",
    "2.fc2": "se.conv_expand",
    "3.0": "conv_pwl",
    "3.1": "bn3",
}
_SEPARABLE = {
    "0.0": "conv_dw",
    "0.1": "bn1",
    "1.fc1": "se.conv_reduce",
    "1.fc2": "se.conv_expand",
    "2.0": "conv_pw",
    "2.1": "bn2",
}
"""The first stage's blocks, which do not expand their channels."""


def is_named_by_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's EfficientNets."""
    return "features.0.0.weight" in state and "features.1.0.block.0.0.weight" in state


def timm_names_from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names; other names are kept."""
    return {_timm_name(name): tensor for name, tensor in state.items()}


def _timm_name(name: str) -> str:
    layer, _, tensor = name.rpartition(".")
    if layer in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[layer]}.{tensor}"
    found = _BLOCK.fullmatch(layer)
    if found is None:
        return name
    stage, block, inner = int(found[1]) - 1, found[2], found[3]
    names = _EXPANDED if stage else _SEPARABLE
    return f"blocks.{stage}.{block}.{names[inner]}.{tensor}" if inner in names else name
