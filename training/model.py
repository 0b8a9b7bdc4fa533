"""The network: one frozen trunk, and what both scorers take from its strides 8, 16 and 32.

Grids: h and w are the input's height and width over 16; the strides' channels are the backbone's own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import FeatureInfo, PretrainedCfg
from torch import Tensor, nn

from edge.errors import ProcunitError
from training.checkpoint import check_origin
from training.data.run_files import CHECKPOINT_FILE, TrainRecord

STRIDES = (8, 16, 32)
STRONGEST_PLACES, PLACE_PATCHES = 3, 2
"""A type's score is the mean of this many of its map's highest places, each the mean of 2 x 2 patches."""
MAX_CORES = 16
"""Photographs that go through the trunk at a time, which bounds memory: about 0.1 GB each at 320 px."""
Item = TypeVar("Item")
Result = TypeVar("Result")
_USE_CONVOLUTIONS = "Use a convolutional backbone such as efficientnet_b3"


class Taps(NamedTuple):
    """The trunk's features at strides 8 [N, C8, 2h, 2w], 16 [N, C16, h, w] and 32 [N, C32, h/2, w/2]."""

    stride8: Tensor
    stride16: Tensor
    stride32: Tensor


class HeadOutputs(NamedTuple):
    """`logits` [N, T] and `defect_maps` [N, T, h, w], which are logits too."""

    logits: Tensor
    defect_maps: Tensor


def trunk_from_name(backbone: str) -> nn.Module:
    """timm's backbone up to stride 32, its weights not yet loaded.

    Raises:
        ProcunitError: the backbone has no features at strides 8, 16 and 32.
    """
    try:
        trunk = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=(2, 3, 4))
    except (RuntimeError, ValueError, AttributeError, AssertionError, IndexError) as error:
        raise ProcunitError(f"timm's {backbone} gives no feature maps: {error}", remedy=_USE_CONVOLUTIONS) from error
    strides = tuple(feature_info_of(trunk).reduction())
    if strides != STRIDES:
        raise ProcunitError(
            f"timm's {backbone} has features at strides {strides}, not {STRIDES}", remedy=_USE_CONVOLUTIONS
        )
    return trunk


def pretrained_config(backbone: str) -> PretrainedCfg:
    """What timm knows of a backbone's pretrained weights: where they lie, and the pixels' mean and spread.

    Raises:
        ProcunitError: timm knows no such backbone.
    """
    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    if config is None:
        raise ProcunitError(f"timm knows no backbone {backbone!r}", remedy="Use a name of timm.list_models()")
    return config


def device_to_learn_on() -> torch.device:
    """The GPU where CUDA has one, in full single precision, as the exported network is judged in."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class DefectHead(nn.Module):
    """Per type a defect map over the patches, shifted by the pooled features; its strongest places are the score.

    `features` is the length of `head_features`; standardisation and calibration are folded into the weights.
    """

    def __init__(self, features: int, types: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(features, types, kernel_size=1, bias=False)
        self.context = nn.Linear(features, types, bias=False)
        self.bias = nn.Parameter(torch.zeros(types, 1, 1))

    def forward(self, features: Tensor) -> HeadOutputs:
        """`features` [N, D, h, w]."""
        maps = self.patch(features) + self.context(features.mean((2, 3)))[:, :, None, None] + self.bias
        return HeadOutputs(strongest_places(maps), maps)


class InspectionModel(nn.Module):
    """Trunk and head of a product; `head` is None where no defect type was taught."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: str, types: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.trunk = trunk_from_name(backbone)
        self.trunk.requires_grad_(False)
        of_stride8, of_stride16, of_stride32 = feature_info_of(self.trunk).channels()
        features = of_stride8 + 2 * of_stride16 + of_stride32
        config = pretrained_config(backbone)
        self.register_buffer("pixel_mean", 255 * torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", 255 * torch.tensor(config.std).view(1, 3, 1, 1))
        self.head = DefectHead(features, types) if types else None
        self.eval()

    @property
    def channels_of_stride8(self) -> int:
        """How many of a patch's features are stride 8's; they come first."""
        return int(feature_info_of(self.trunk).channels()[0])

    def taps(self, image_u8: Tensor) -> Taps:
        """The trunk's features of `image_u8` [N, H, W, C], grey or BGR, on the model's device."""
        pixels = image_u8.to(self.pixel_mean.device).float().permute(0, 3, 1, 2)
        if self.channels == 3:
            pixels = pixels.flip(1)  # the trunk was taught with RGB
        return Taps(*self.trunk((pixels - self.pixel_mean) / self.pixel_std))


def strongest_places(maps: Tensor) -> Tensor:
    """The mean [N, T] of each map's highest places in [N, T, h, w]; a noisy patch is no place (docs/decisions/0020)."""
    return F.avg_pool2d(maps, PLACE_PATCHES, stride=1).flatten(2).topk(STRONGEST_PLACES).values.mean(2)


def head_features(taps: Taps) -> Tensor:
    """All three strides on the stride-16 grid, the middle one also locally averaged: [N, D, h, w]."""
    return joined_features(F.avg_pool2d(taps.stride8, 2), taps.stride16, taps.stride32)


def joined_features(fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """The head's features of stride 8 on the stride-16 grid, stride 16 and stride 32 on its own: [N, D, h, w]."""
    coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    return torch.cat((fine, middle, _locally_averaged(middle), coarse), dim=1)


def patch_features(taps: Taps) -> Tensor:
    """Locally averaged strides 8 and 16, [N, C8 + C16, h, w] (PatchCore, Roth et al., CVPR 2022)."""
    fine = F.avg_pool2d(_locally_averaged(taps.stride8), 2)
    return torch.cat((fine, _locally_averaged(taps.stride16)), dim=1)


def each_on_one_core(
    compute: Callable[[Item], Result], items: Sequence[Item], description: str, console: Console
) -> list[Result]:
    """`compute` over all items, with progress; see `iterate_each_on_one_core`."""
    return list(iterate_each_on_one_core(compute, items, description, console))


def iterate_each_on_one_core(
    compute: Callable[[Item], Result], items: Sequence[Item], description: str, console: Console
) -> Iterator[Result]:
    """`compute` over all items, in order and with progress: one item a core, torch's own threads off.

    Cores that share one item wait for each other after every layer, which on a busy machine takes most of the time. Few
    items are computed ahead of what is asked for, so that results do not pile up.
    """
    cores = min(len(os.sched_getaffinity(0)), MAX_CORES)
    threads, executor = torch.get_num_threads(), ThreadPoolExecutor(cores)
    torch.set_num_threads(1)
    waiting = iter(items)
    ahead = deque(executor.submit(compute, item) for item in islice(waiting, 2 * cores))
    try:
        for _ in track(range(len(items)), description, console=console):
            done = ahead.popleft().result()
            ahead.extend(executor.submit(compute, item) for item in islice(waiting, 1))
            yield done
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def feature_info_of(trunk: nn.Module) -> FeatureInfo:
    """Channels, strides and modules of the trunk's three taps."""
    info = trunk.feature_info
    if not isinstance(info, FeatureInfo):
        raise TypeError(f"timm's feature_info is a {type(info).__name__}")
    return info


def _locally_averaged(features: Tensor) -> Tensor:
    """3 x 3; what lies outside counts as zero, which damps the border's own noise (docs/decisions/0018)."""
    return F.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def model_from_checkpoint(run: Path, record: TrainRecord) -> InspectionModel:
    """The model of a run, ready to be evaluated.

    Raises:
        ProcunitError: the checkpoint is missing, damaged, or of another run or model.
    """
    path = run / CHECKPOINT_FILE
    check_origin(path, record)
    model = InspectionModel(record.backbone, len(record.types), record.geometry.channels)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ProcunitError(
            f"not this run's checkpoint: {str(error).splitlines()[0]}", where=str(path), remedy="Run `procunit train`"
        ) from error
    return model
