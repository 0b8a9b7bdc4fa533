"""Our side of the accuracy benchmark: a RUN exported as `procunit export` does, judged by the device's engine."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from edge.engine import scores_from_outputs
from edge.engine_ort import OrtEngine
from edge.runfiles import TRAIN_FILE, RunPhoto, TrainRecord, graphs_of_run, write_record
from export.cli import DEFAULT_BANK_ROWS
from export.export import export_run
from tools.bench_peers.figures import Judged
from tools.bench_peers.photographs import SEED, Contest
from training.model import InspectionModel, save_checkpoint


def judged_by_ours(contest: Contest, bank: Sequence[int], judged: Sequence[int], run: Path, console: Console) -> Judged:
    """Teach by the `bank` photographs alone, export into `run`, and judge through the exported graph."""
    run.mkdir()
    model = InspectionModel(contest.weights.backbone, 0, contest.geometry.channels)
    model.trunk.load_state_dict(contest.weights.state)
    save_checkpoint(model, run)
    write_record(run, TRAIN_FILE, _record(contest, bank))
    exported = export_run(run, DEFAULT_BANK_ROWS, console)
    engine = OrtEngine(graphs_of_run(run, exported.record), exported.bank.rows)
    inputs = np.load(contest.inputs, mmap_mode="r")
    size_px = contest.geometry.input_width_px, contest.geometry.input_height_px
    scores, maps = np.zeros(len(judged)), np.zeros((len(judged), *size_px[::-1]), np.float32)
    for row, place in enumerate(judged):
        found = scores_from_outputs(engine.infer(inputs[place : place + 1]))
        scores[row] = found.anomaly_score
        maps[row] = cv2.resize(found.anomaly_map[0], size_px, interpolation=cv2.INTER_LINEAR)
    engine.close()
    return Judged(scores, maps, exported.record.bank_rows, f"onnxruntime {version('onnxruntime')}")


def _record(contest: Contest, bank: Sequence[int]) -> TrainRecord:
    """What `procunit train` would have written of good parts alone, all of them learned from."""
    taught = [contest.dataset.photos[place] for place in bank]
    return TrainRecord(
        data=str(contest.dataset.root.resolve()),
        dataset_sha256=contest.dataset.sha256,
        product="bench",
        seed=SEED,
        backbone=contest.weights.backbone,
        weights=contest.weights.source,
        geometry=contest.geometry,
        types=(),
        photos=tuple(
            RunPhoto(sha256=p.sha256, part_id=p.part_id, label=p.label, role="train", file=p.file) for p in taught
        ),
        out_of_fold_auc={},
        packages={},
        code_version="bench",
    )
