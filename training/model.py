"""The network: one frozen backbone (trunk), and the features at strides 8, 16 and 32 that both scorers use.

Grids: h and w are the input's height and width divided by 16; the number of channels depends on the backbone.
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
"""A type's score is the mean of the map's three highest places, each the mean of 2 x 2 patches."""
MAX_CORES = 16
"""Photographs in the trunk at the same time, which limits memory: about 0.1 GB each at 320 px."""
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
    """timm's backbone up to stride 32, without pretrained weights.

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
    """timm's configuration of a backbone's pretrained weights: their location, and the pixels' mean and deviation.

    Raises:
        ProcunitError: timm has no such backbone.
    """
    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    if config is None:
        raise ProcunitError(f"timm has no backbone {backbone!r}", remedy="Use a name of timm.list_models()")
    return config


def device_to_learn_on() -> torch.device:
    """The GPU if CUDA has one, else the CPU; without TF32, because exported graphs are compared with full FP32."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class DefectHead(nn.Module):
    """A defect map per type over the patches, shifted by the pooled features; the score is from its strongest places.

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
    """A product's trunk and head; `head` is None without defect types."""

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
        """The number of a patch's features from stride 8; they come first."""
        return int(feature_info_of(self.trunk).channels()[0])

    def taps(self, image_u8: Tensor) -> Taps:
        """The trunk's features of `image_u8` [N, H, W, C], grey or BGR, on the model's device."""
        pixels = image_u8.to(self.pixel_mean.device).float().permute(0, 3, 1, 2)
        if self.channels == 3:
            pixels = pixels.flip(1)  # the trunk was trained on RGB
        return Taps(*self.trunk((pixels - self.pixel_mean) / self.pixel_std))


def strongest_places(maps: Tensor) -> Tensor:
    """The mean [N, T] of the highest places of maps [N, T, h, w]; see docs/decisions/0020 on noisy patches."""
    return F.avg_pool2d(maps, PLACE_PATCHES, stride=1).flatten(2).topk(STRONGEST_PLACES).values.mean(2)


def head_features(taps: Taps) -> Tensor:
    """All three strides on the stride-16 grid, stride 16 also locally averaged: [N, D, h, w]."""
    return joined_features(F.avg_pool2d(taps.stride8, 2), taps.stride16, taps.stride32)


def joined_features(fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """The head's features [N, D, h, w] from strides 8 and 16 on the stride-16 grid and stride 32 on its grid."""
    coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    return torch.cat((fine, middle, _locally_averaged(middle), coarse), dim=1)


def patch_features(taps: Taps) -> Tensor:
    """Locally averaged strides 8 and 16, [N, C8 + C16, h, w] (PatchCore, Roth et al., CVPR 2022)."""
    fine = F.avg_pool2d(_locally_averaged(taps.stride8), 2)
    return torch.cat((fine, _locally_averaged(taps.stride16)), dim=1)


def each_on_one_core(
    compute: Callable[[Item], Result], items: Sequence[Item], description: str, console: Console
) -> list[Result]:
    """`compute` of all items, with progress; see `iterate_each_on_one_core`."""
    return list(iterate_each_on_one_core(compute, items, description, console))


def iterate_each_on_one_core(
    compute: Callable[[Item], Result], items: Sequence[Item], description: str, console: Console
) -> Iterator[Result]:
    """Yield `compute` of all items, in order and with progress: one item per core, torch's internal threads off.

    Cores that share one item wait for each other after every layer, which takes most of the time on a busy machine.
    Only a few items are computed ahead of the consumer, so that results do not pile up.
    """
    cores = min(len(os.sched_getaffinity(0)), MAX_CORES)
    threads, executor = torch.get_num_threads(), ThreadPoolExecutor(cores)
    torch.set_num_threads(1)
    pending = iter(items)
    ahead = deque(executor.submit(compute, item) for item in islice(pending, 2 * cores))
    try:
        for _ in track(range(len(items)), description, console=console):
            done = ahead.popleft().result()
            ahead.extend(executor.submit(compute, item) for item in islice(pending, 1))
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
    """A 3 x 3 mean with zero padding, which damps the noise at the border (docs/decisions/0018)."""
    return F.avg_pool2d(features, kernel_size=3, stride=1, padding=1)


def model_from_checkpoint(run: Path, record: TrainRecord) -> InspectionModel:
    """The model of a run, in evaluation mode.

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
