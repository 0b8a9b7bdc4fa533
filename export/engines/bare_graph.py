"""The baseline of `procunit engine bench`: a bundle's backbone alone, as timm builds it for ImageNet's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from edge.geometry import Geometry
from export.graph.inspection_graph import OPSET
from training.model import pretrained_config

BarePrecision = Literal["fp16", "fp32"]


class BareClassifier(nn.Module):
    """From `image` uint8 [N, H, W, C] to `logits` [N, 1000]; weights are random, latency does not depend on them."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, channels: int, *, half: bool) -> None:
        super().__init__()
        config = pretrained_config(backbone)
        self.channels = channels
        self.register_buffer("mean", 255 * torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(config.std).view(1, 3, 1, 1))
        network: nn.Module = timm.create_model(backbone, pretrained=False)
        self.network = network.half() if half else network
        self.half_precision = half
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """The same cast, layout and normalisation as the bundle's graph, then the whole network."""
        pixels = image.float().permute(0, 3, 1, 2)
        if self.channels == 3:
            pixels = pixels.flip(1)
        pixels = (pixels - self.mean) / self.std
        logits: Tensor = self.network(pixels.half() if self.half_precision else pixels)
        return logits.float()


def bare_graph(backbone: str, geometry: Geometry, precision: BarePrecision, path: Path) -> None:
    """Write the backbone as ONNX for the geometry's tiles.

    Raises:
        ProcunitError: timm does not know the backbone.
    """
    network = BareClassifier(backbone, geometry.channels, half=precision == "fp16")
    image = torch.zeros(2, geometry.input_height_px, geometry.input_width_px, geometry.channels, dtype=torch.uint8)
    program = torch.onnx.export(
        network,
        (image,),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_shapes={"image": {0: torch.export.Dim("tiles")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch's exporter returned no program")
    partial = path.with_name(f".{path.name}.partial")
    try:
        program.save(partial, external_data=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
