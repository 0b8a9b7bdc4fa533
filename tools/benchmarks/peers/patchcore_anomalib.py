"""anomalib's side of the accuracy benchmark: its own PatchcoreModel over our input tensors.

python -m tools.benchmarks.peers.patchcore_anomalib TASK.json

Runs in anomalib's environment, so it imports nothing of this project. Uses a CUDA GPU if there is one. Prints the
number of bank rows, what it ran on and whether that is a GPU, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
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
_PHOTOGRAPHS_AT_ONCE = 4


def main() -> None:
    """Build the bank from the task's `bank` photographs, score those of `scored`, write scores and maps."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)
    torch.backends.cudnn.allow_tf32 = False  # single precision throughout, as on the CPU
    on_gpu = torch.cuda.is_available()
    inputs = np.load(task["inputs"], mmap_mode="r")
    model = PatchcoreModel(
        layers=task["layers"], backbone=task["backbone"], pre_trained=False, num_neighbors=task["neighbours"]
    )
    model.feature_extractor.feature_extractor.load_state_dict(load_file(task["weights"]))
    model.to("cuda" if on_gpu else "cpu").train()
    scores, maps = [], []
    with torch.inference_mode():
        for photographs in batches(inputs, task["bank"], task):
            model(photographs.to(model.memory_bank.device))
        model.subsample_embedding(task["share"])
        model.eval()
        for photographs in batches(inputs, task["scored"], task):
            found = model(photographs.to(model.memory_bank.device))
            scores.append(found.pred_score.flatten().double().cpu())
            maps.append(found.anomaly_map[:, 0].cpu())
    np.save(task["scores"], torch.cat(scores).numpy())
    np.save(task["maps"], torch.cat(maps).numpy())
    ran_on = [*(f"{name} {version(name)}" for name in _PACKAGES), torch.cuda.get_device_name() if on_gpu else "CPU"]
    print(json.dumps({"rows": len(model.memory_bank), "ran_on": ", ".join(ran_on), "on_gpu": on_gpu}))


def batches(inputs: NDArray[np.uint8], indices: list[int], task: dict[str, Any]) -> Iterator[Tensor]:
    """The photographs in small batches as the network's input: RGB [N, 3, H, W] from grey or BGR [N, H, W, C].

    Normalised with the backbone's mean and standard deviation.
    """
    mean, std = (255 * torch.tensor(task[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    for start in range(0, len(indices), _PHOTOGRAPHS_AT_ONCE):
        image_u8 = inputs[indices[start : start + _PHOTOGRAPHS_AT_ONCE]]
        pixels = torch.from_numpy(image_u8.astype(np.float32)).permute(0, 3, 1, 2)
        yield (pixels.flip(1) - mean) / std


if __name__ == "__main__":
    main()
