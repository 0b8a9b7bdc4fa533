"""Fine-tuning of the trunk's last stages, those after the second PatchCore tap, on cached features of the earlier ones.

The frozen part runs once over each photograph and a few augmented copies; training starts at stride 16, so an epoch on
two cores takes seconds. Batch norms keep their statistics. The head that is trained along starts as the closed form
(`training.head`) and is then discarded: the closed form is fitted again to the tuned features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.preprocess import PATCH_PX, mask_tiles, tensor_from_pixels
from training.augment import augmentation_in_geometry, augmented
from training.data.dataset import Photo, read_mask
from training.data.dataset_yaml import DatasetFile
from training.features import Sample, sample_from_features
from training.model import (
    DefectHead,
    HeadOutputs,
    InspectionModel,
    each_on_one_core,
    feature_info_of,
    joined_features,
)
from training.validation import folds_by_part

VIEWS = 4
"""Views per photograph: as it is, and three augmented copies."""
EPOCHS, PATIENCE = 6, 2
"""The maximum number of epochs, and of epochs without a smaller loss on the held-out parts (early stopping)."""
BATCH = 16
LEARNING_RATES = (1e-5, 3e-5, 1e-4)
"""Of the first tuned stages, the last one and the head: earlier layers change less (Howard and Ruder, ACL 2018)."""
WEIGHT_DECAY, WARM_UP = 1e-2, 0.2
AVERAGED_STEPS = 50
"""The final weights are a moving average over about this many steps (Polyak and Juditsky, 1992)."""
DEFECT_SHARE = 0.4
"""How often a type is drawn relative to good photographs; all parts of a label are equally likely."""
MIN_COVERAGE = 0.25
"""A patch is a positive if the mask covers more than this share of it; partly covered patches below it are not used."""
STOP_FOLDS = 6
"""One of this many parts of every type is held out for early stopping."""


@dataclass(frozen=True, slots=True)
class Views:
    """A photograph's V views of N tiles as input of the tuned stages, in float16.

    `fine` [V, N, C8, h, w] and `middle` [V, N, C16, h, w] are strides 8 and 16 on the stride-16 grid. `coverage`
    [V, N, h, w] is the mask's share of each patch; None without a mask.
    """

    label: str
    part_id: str
    fine: Tensor
    middle: Tensor
    coverage: Tensor | None


def tuned_stages(trunk: nn.Module) -> nn.ModuleList:
    """The trunk's stages between the taps of strides 16 and 32: the trunk's modules, not copies.

    Raises:
        ProcunitError: the stages are not in one list of blocks, as in an EfficientNet.
    """
    (_, middle, last), blocks = feature_info_of(trunk).module_name(), getattr(trunk, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not (middle.startswith("blocks.") and last.startswith("blocks.")):
        raise ProcunitError(
            "the last stages of this backbone cannot be tuned separately", remedy="Use an EfficientNet, or --frozen"
        )
    first, end = (int(name.removeprefix("blocks.")) + 1 for name in (middle, last))
    return nn.ModuleList(blocks[first:end])


def views_of_photos(
    model: InspectionModel,
    photos: Sequence[Photo],
    geometry: Geometry,
    file: DatasetFile,
    seed: int,
    console: Console,
) -> list[Views]:
    """Run the frozen part over every photograph and its augmented copies."""
    return each_on_one_core(partial(_views, model, geometry, file, seed), photos, "Computing views", console)


def samples_from_views(stages: nn.ModuleList, views: Sequence[Views], console: Console) -> list[Sample]:
    """The head's training samples: each photograph as it is, through these stages."""
    return each_on_one_core(partial(sample_from_views, stages), views, "Computing features", console)


def fine_tuned(
    stages: nn.ModuleList,
    views: Sequence[Views],
    types: Sequence[str],
    head: DefectHead,
    seed: int,
    progress: Progress,
) -> nn.ModuleList:
    """A tuned copy of the stages; `head` is the head's initial state.

    Repeatable on one machine. One part in `STOP_FOLDS` is held out for early stopping; if a type has too few parts for
    that, all parts are used for training and the weights of the last epoch are kept.
    """
    network = _TunedNetwork(copy.deepcopy(stages).requires_grad_(True), copy.deepcopy(head)).to(
        next(stages.parameters()).device
    )
    kept, average = network, copy.deepcopy(network)
    fold_of = folds_by_part(views, types, seed, STOP_FOLDS)
    trained_on = [x for x, fold in zip(views, fold_of, strict=True) if fold]
    left_out = [x for x, fold in zip(views, fold_of, strict=True) if not fold]
    if {x.label for x in trained_on} != {x.label for x in views}:
        trained_on, left_out = list(views), []
    draw, chances = np.random.default_rng(seed), _chances(trained_on)
    steps = max(1, len(trained_on) // BATCH)
    optimizer = torch.optim.AdamW(network.groups(), weight_decay=WEIGHT_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=EPOCHS * steps, pct_start=WARM_UP)
    best, worse = np.inf, 0
    task = progress.add_task("Fine-tuning", total=EPOCHS * steps)
    for _ in range(EPOCHS):
        for _ in range(steps):
            batch = [trained_on[i] for i in draw.choice(len(trained_on), BATCH, p=chances)]
            loss = _loss(network, batch, draw.integers(VIEWS, size=BATCH), types)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.move_towards(network)
            progress.advance(task)
        found = _loss_on(average, left_out, types)
        if found < best or not left_out:
            kept, best, worse = copy.deepcopy(average), found, 0
        else:
            worse += 1
        if worse >= PATIENCE:
            break
    progress.remove_task(task)
    return kept.stages.requires_grad_(False)


class _TunedNetwork(nn.Module):
    """The stages and the head that are trained together."""

    def __init__(self, stages: nn.ModuleList, head: DefectHead) -> None:
        super().__init__()
        self.stages, self.head = stages.eval(), head

    def forward(self, fine: Tensor, middle: Tensor) -> HeadOutputs:
        coarse = middle
        for stage in self.stages:
            coarse = stage(coarse)
        outputs: HeadOutputs = self.head(joined_features(fine, middle, coarse))
        return outputs

    def groups(self) -> list[dict[str, object]]:
        """The optimizer's parameter groups, each with a learning rate."""
        *earlier, last = self.stages
        modules = (nn.ModuleList(earlier), last, self.head)
        pairs = zip(modules, LEARNING_RATES, strict=True)
        return [{"params": list(m.parameters()), "lr": rate} for m, rate in pairs if list(m.parameters())]

    @torch.no_grad()
    def move_towards(self, other: _TunedNetwork) -> None:
        """One step of the moving average."""
        for averaged, new in zip(self.parameters(), other.parameters(), strict=True):
            averaged.lerp_(new, 1 / AVERAGED_STEPS)


def _loss(network: _TunedNetwork, batch: Sequence[Views], chosen: NDArray[np.int64], types: Sequence[str]) -> Tensor:
    """The loss on photographs by label plus that on patches by mask; defect and clean patches have equal weight."""
    device = next(network.parameters()).device
    fine = torch.stack([x.fine[v] for x, v in zip(batch, chosen, strict=True)]).to(device).float()
    middle = torch.stack([x.middle[v] for x, v in zip(batch, chosen, strict=True)]).to(device).float()
    outputs = network(fine.flatten(0, 1), middle.flatten(0, 1))
    logits, maps = outputs.logits.unflatten(0, fine.shape[:2]).amax(1), outputs.defect_maps.unflatten(0, fine.shape[:2])
    target = torch.tensor([[float(x.label == name) for name in types] for x in batch], device=device)
    shown, clean = (torch.zeros(maps.shape, dtype=torch.bool) for _ in range(2))
    for i, (x, v) in enumerate(zip(batch, chosen, strict=True)):
        if x.label == GOOD:
            clean[i] = True
        elif x.coverage is not None:
            shown[i, :, types.index(x.label)] = x.coverage[v] > MIN_COVERAGE
            clean[i] = (x.coverage[v] == 0)[:, None]
    shown, clean = shown.to(device), clean.to(device)
    of_patch = F.binary_cross_entropy_with_logits(maps, shown.float(), reduction="none")
    sides = [of_patch[side].mean() for side in (shown, clean) if side.any()]
    loss: Tensor = F.binary_cross_entropy_with_logits(logits, target) + torch.stack(sides).mean()
    return loss


@torch.no_grad()
def _loss_on(network: _TunedNetwork, views: Sequence[Views], types: Sequence[str]) -> float:
    """The mean over batches of the loss on photographs as they are; infinite without photographs."""
    parts = [views[start : start + BATCH] for start in range(0, len(views), BATCH)]
    losses = [float(_loss(network, part, np.zeros(len(part), np.int64), types)) for part in parts]
    return float(np.mean(losses)) if losses else np.inf


def _chances(views: Sequence[Views]) -> NDArray[np.float64]:
    """Each photograph's probability: by `DEFECT_SHARE`, equal among parts of a label and photographs of a part."""
    photos_of: dict[tuple[str, str], int] = {}
    for x in views:
        photos_of[x.label, x.part_id] = photos_of.get((x.label, x.part_id), 0) + 1
    labels = [label for label, _ in photos_of]
    shares = np.array(
        [
            (1.0 if x.label == GOOD else DEFECT_SHARE) / labels.count(x.label) / photos_of[x.label, x.part_id]
            for x in views
        ],
        np.float64,
    )
    return np.asarray(shares / shares.sum(), np.float64)


@torch.no_grad()
def _views(model: InspectionModel, geometry: Geometry, file: DatasetFile, seed: int, photo: Photo) -> Views:
    pixels = read_image(photo.path)
    mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])
    allowed = augmentation_in_geometry(file.augmentation_of(photo.label), geometry)
    draw = np.random.default_rng([seed, int(photo.sha256[:8], 16)])
    fine, middle, coverage = [], [], []
    for view in range(VIEWS):
        shown, mask = (pixels, mask_u8) if view == 0 else augmented(pixels, mask_u8, allowed, draw)
        tiles = None if mask is None else mask_tiles(mask, geometry)
        if (
            tiles is not None and mask_u8 is not None and not tiles.any()
        ):  # the defect was moved out of the inspected area
            shown, tiles = pixels, mask_tiles(mask_u8, geometry)
        taps = model.taps(torch.from_numpy(tensor_from_pixels(shown, geometry)))
        fine.append(F.avg_pool2d(taps.stride8, 2).half().cpu())
        middle.append(taps.stride16.half().cpu())
        if tiles is not None:
            coverage.append(F.avg_pool2d(torch.from_numpy(tiles)[:, None], PATCH_PX)[:, 0])
    marked = bool(coverage) and bool(coverage[0].any())
    return Views(
        photo.label, photo.part_id, torch.stack(fine), torch.stack(middle), torch.stack(coverage) if marked else None
    )


@torch.no_grad()
def sample_from_views(stages: nn.ModuleList, views: Views) -> Sample:
    """The training sample of a photograph as it is, through these stages."""
    device = next(stages.parameters()).device
    middle = coarse = views.middle[0].to(device).float()
    for stage in stages:
        coarse = stage(coarse)
    features = joined_features(views.fine[0].to(device).float(), middle, coarse)
    coverage = None if views.coverage is None else views.coverage[0].flatten()
    return sample_from_features(views.label, views.part_id, features, coverage)
