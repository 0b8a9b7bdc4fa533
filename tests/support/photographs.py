"""Folders of small photographs with masks and part ids, and weights for networks that no test downloads."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

BACKBONE = "test_efficientnet"
"""timm's smallest EfficientNet, 0.1 million weights."""
HEIGHT_PX, WIDTH_PX = 56, 80
"""Not square and not the network's input size: every photograph is scaled and padded."""
_PHOTOS_PER_PART = 2


def write_photographs(
    root: Path, good_parts: int, defect_parts: Mapping[str, int], *, masks: bool = True, colour: bool = False
) -> Path:
    """Write two photographs per part to `root`; the odd defect types show a dark spot, the even ones a bright line."""
    rows = []
    for place, (label, parts) in enumerate({"good": good_parts, **defect_parts}.items()):
        for part in range(parts):
            for copy in range(_PHOTOS_PER_PART):
                image, mask = _photograph(1000 * place + 10 * part + copy, place)
                file = f"{label}/{part:02}-{copy}.png"
                _write(root / file, np.dstack([image, image, image // 2]) if colour else image)
                if masks and label != "good":
                    _write(root / "masks" / file, mask)
                rows.append((file, f"{label}-{part:02}"))
    with (root / "parts.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "part_id"), *rows])
    return root


def write_weights(path: Path, backbone: str = BACKBONE) -> Path:
    """Write random but reproducible weights as a safetensors file with timm's tensor names."""
    torch.manual_seed(0)
    save_file(timm.create_model(backbone, pretrained=False).state_dict(), path)
    return path


def _photograph(seed: int, place: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(110, 6, (HEIGHT_PX, WIDTH_PX)), 0, 255).astype(np.uint8)
    mask = np.zeros_like(image)
    if place:
        x, y = int(rng.integers(15, WIDTH_PX - 15)), int(rng.integers(15, HEIGHT_PX - 15))
        if place % 2:
            cv2.circle(mask, (x, y), 7, 255.0, -1)
        else:
            cv2.line(mask, (x - 12, y), (x + 12, y + 4), 255.0, 3)
        image[mask > 0] = 15 if place % 2 else 245
    return image, mask


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
