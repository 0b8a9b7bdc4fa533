"""One lap of the coreset race, in a separate process in the environment of its side.

python -m tools.benchmarks.peers.lap ours|anomalib POINTS.npy COUNT SEED CHOSEN.npy

Prints seconds, the process's peak memory in MB and the side's version, as JSON. Reading the points is not timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PACKAGES = {"ours": "procunit-edge", "anomalib": "anomalib"}


def main() -> None:
    """Choose the rows, write their indices, print the figures."""
    side, points_file, count, seed, chosen_file = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    points = torch.from_numpy(np.load(points_file))
    choose = chosen_by_anomalib if side == "anomalib" else chosen_by_ours
    started_s = time.perf_counter()
    chosen = choose(points, int(count), int(seed))
    seconds = time.perf_counter() - started_s
    np.save(chosen_file, np.asarray(chosen, np.int64))
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "version": version(_PACKAGES[side])}))


def chosen_by_ours(points: Tensor, count: int, seed: int) -> list[int]:
    """Indices of at most `count` points [n, D]."""
    from export.bank.coreset import k_center_greedy  # noqa: PLC0415  (not in anomalib's environment)

    return [int(index) for index in k_center_greedy(points, count, seed).indices]


def chosen_by_anomalib(points: Tensor, count: int, seed: int) -> list[int]:
    """Indices of `count` points [n, D], by anomalib's own class with its defaults."""
    from anomalib.models.components import KCenterGreedy  # type: ignore[import-not-found]  # noqa: PLC0415

    torch.manual_seed(seed)
    np.random.seed(seed)  # its projection draws from the global state
    sampler = KCenterGreedy(points, sampling_ratio=(count + 0.5) / len(points))  # it rounds down
    return [int(index) for index in sampler.select_coreset_idxs()]


def _peak_mb() -> float:
    """Peak memory of this process in MB; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    main()
