"""The network in half precision: fold the batch norms while the weights are FP32, then run trunk and head in FP16.

The trunk's features become FP32 again before the search (`export.graph.inspection_graph`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle

from training.model import InspectionModel

MAX_ACTIVATION = float(torch.finfo(torch.float16).max) / 4
"""If a layer exceeds this on a training photograph, another photograph could overflow FP16, so FP16 is not exported."""


class Fp16Trunk(nn.Module):
    """A trunk in FP16: takes normalised FP32 pixels, returns FP16 features."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.half()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """The trunk's features of `pixels` [N, 3, H, W]."""
        features: list[Tensor] = self.trunk(pixels.half())
        return features


def fold_batch_norms(model: InspectionModel, tiles_u8: NDArray[np.uint8]) -> InspectionModel:
    """A copy with batch norms folded into their preceding convolutions; running `tiles_u8` shows which precede them."""
    model = deepcopy(model)
    names = {module: name for name, module in model.trunk.named_modules()}
    for conv, norm in _followed_by_norm(model, tiles_u8).items():
        model.trunk.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        model.trunk.set_submodule(names[norm], after)
    return model.eval()


def to_fp16(model: InspectionModel) -> InspectionModel:
    """A copy that computes in FP16 from the normalised pixels to the trunk's features and the head's outputs."""
    model = deepcopy(model)
    model.trunk = Fp16Trunk(model.trunk)
    model.head = None if model.head is None else model.head.half()
    return model.eval()


def largest_activation(model: InspectionModel, frames_u8: Sequence[NDArray[np.uint8]]) -> float:
    """The largest absolute output of any layer of the trunk on frames of tiles [N, H, W, C].

    It is measured in PyTorch, because ONNX Runtime computes FP16 layers in FP32 on a CPU, which hides an overflow.
    """
    largest = 0.0

    def watch(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(output.abs().max()))

    layers = [module for module in model.trunk.modules() if not list(module.children())]
    with hooked([layer.register_forward_hook(watch) for layer in layers]), torch.inference_mode():
        for tiles_u8 in frames_u8:
            model.taps(torch.from_numpy(tiles_u8))
    return largest


@contextmanager
def hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _followed_by_norm(model: InspectionModel, tiles_u8: NDArray[np.uint8]) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """The convolutions whose output goes directly into a batch norm, with that batch norm."""
    latest: list[tuple[Tensor, nn.Conv2d]] = []
    found: dict[nn.Conv2d, nn.BatchNorm2d] = {}

    def after_convolution(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            latest[:] = [(output, module)]

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and latest and latest[0][0] is inputs[0]:
            found[latest[0][1]] = module

    modules = list(model.trunk.modules())
    hooks = [m.register_forward_hook(after_convolution) for m in modules if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in modules if isinstance(m, nn.BatchNorm2d)]
    with hooked(hooks), torch.inference_mode():
        model.taps(torch.from_numpy(tiles_u8))
    return found
