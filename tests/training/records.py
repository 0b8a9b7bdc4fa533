"""An invented run's record."""

from __future__ import annotations

from edge.geometry import Geometry
from tests.support.photographs import BACKBONE
from training.data.run_files import TrainRecord

RECORD = TrainRecord(
    data="/photographs",
    dataset_sha256="d" * 64,
    product="bracket",
    seed=3,
    backbone=BACKBONE,
    weights="w.safetensors, sha256 0",
    geometry=Geometry(input_height_px=96, input_width_px=96),
    types=("line", "spot"),
    photos=(),
    out_of_fold_auc={"line": 0.9},
    packages={"torch": "2.8", "timm": "1.0"},
    code_version="0.1.0",
)
