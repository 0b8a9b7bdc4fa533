"""Our side of the accuracy benchmark: a RUN exported like `procunit export`, scored by the device's engine."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from edge.engine.ort import OrtEngine
from edge.engine.scores import scores_from_outputs
from export.cli import DEFAULT_BANK_ROWS
from export.export import export_run
from tools.benchmarks.good_parts_run import model_without_types, record_of_good_parts
from tools.benchmarks.peers.figures import Scored
from tools.benchmarks.peers.photographs import SEED, Contest
from training.checkpoint import save_checkpoint
from training.data.run_files import TRAIN_FILE, graphs_of_run, write_record


def score_by_ours(contest: Contest, bank: Sequence[int], scored: Sequence[int], run: Path, console: Console) -> Scored:
    """Build the bank from the `bank` photographs only, export into `run`, and score with the exported graph."""
    run.mkdir()
    taught = [contest.dataset.photos[index] for index in bank]
    record = record_of_good_parts(contest.dataset, taught, contest.weights, contest.geometry, SEED, "bench")
    save_checkpoint(model_without_types(contest.weights, contest.geometry), run, record)
    write_record(run, TRAIN_FILE, record)
    exported = export_run(run, DEFAULT_BANK_ROWS, console)
    engine = OrtEngine(graphs_of_run(run, exported.record), exported.bank.rows)
    inputs = np.load(contest.inputs, mmap_mode="r")
    size_px = contest.geometry.input_width_px, contest.geometry.input_height_px
    scores, maps = np.zeros(len(scored)), np.zeros((len(scored), *size_px[::-1]), np.float32)
    for row, index in enumerate(scored):
        found = scores_from_outputs(engine.infer(inputs[index : index + 1]))
        scores[row] = found.anomaly_score
        maps[row] = cv2.resize(found.anomaly_map[0], size_px, interpolation=cv2.INTER_LINEAR)
    engine.close()
    return Scored(scores, maps, exported.record.bank_rows, f"onnxruntime {version('onnxruntime')}, CPU")
