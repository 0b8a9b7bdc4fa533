"""anomalib's side of the accuracy benchmark: its own PatchcoreModel over our input tensors.

python -m tools.bench_peers.patchcore_anomalib TASK.json

Runs in anomalib's environment, so it imports nothing of ours. Prints the bank's rows and what it ran on as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # type: ignore[import-not-found]
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

_PACKAGES = ("anomalib", "torch", "timm")
_SEED = 0
_PHOTOGRAPHS_AT_ONCE = 8


def main() -> None:
    """Make the bank of the task's `bank` photographs, judge those of `judged`, write scores and maps."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)
    inputs = np.load(task["inputs"], mmap_mode="r")
    model = PatchcoreModel(
        layers=task["layers"], backbone=task["backbone"], pre_trained=False, num_neighbors=task["neighbours"]
    )
    model.feature_extractor.feature_extractor.load_state_dict(load_file(task["weights"]))
    model.train()
    with torch.inference_mode():
        for start in range(0, len(task["bank"]), _PHOTOGRAPHS_AT_ONCE):
            model(normalised(inputs[task["bank"][start : start + _PHOTOGRAPHS_AT_ONCE]], task))
        model.subsample_embedding(task["share"])
        model.eval()
        found = [model(normalised(inputs[place : place + 1], task)) for place in task["judged"]]
    np.save(task["scores"], np.array([float(f.pred_score) for f in found]))
    np.save(task["maps"], torch.cat([f.anomaly_map[:, 0] for f in found]).numpy())
    rows = len(model.memory_bank)
    print(json.dumps({"rows": rows, "ran_on": ", ".join(f"{name} {version(name)}" for name in _PACKAGES)}))


def normalised(image_u8: NDArray[np.uint8], task: dict[str, Any]) -> Tensor:
    """RGB [N, 3, H, W] of `image_u8` [N, H, W, C], grey or BGR, by the backbone's own mean and spread."""
    mean, std = (255 * torch.tensor(task[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = torch.from_numpy(image_u8.astype(np.float32)).permute(0, 3, 1, 2)
    return (pixels.flip(1) - mean) / std


if __name__ == "__main__":
    main()
