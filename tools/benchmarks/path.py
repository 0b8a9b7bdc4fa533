"""Time from frame in memory to verdict, compared with the bare ONNX Runtime call on the same graph.

Blocks of the two alternate in one run.

python -m tools.benchmarks.path work/demo/bundle --data work/demo/parts --json work/bench.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

from edge.anomaly import folded_rows
from edge.bundle.reader import open_without_signature_check
from edge.cli.program import run_program
from edge.engine.ort import OrtEngine
from edge.image_file import read_image
from edge.messages import Frame, Trigger
from edge.pipeline import inspect_part
from edge.policy import policy_from_manifest
from edge.preprocess import tensor_from_pixels
from edge.recipe import recipe_from_bundle
from edge.system.clock import utc_now
from edge.terminal import echo
from training.data.dataset import dataset_from_folder

BLOCKS, FRAMES_A_BLOCK = 10, 40


def _trigger(seq: int, frame: Frame) -> Trigger:
    return Trigger(seq, frame.frame_id, frame.part_id, seq, utc_now(), time.monotonic_ns(), frame)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Labelled folder to take frames from.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def bench(bundle: Path, data: Path, json_file: Path | None) -> None:
    """Compare the whole path with the bare call; exit with 1 if it takes more than 5 ms and more than 10 % longer."""
    content = open_without_signature_check(bundle)
    manifest, bank = content.manifest, content.bank()
    engine = OrtEngine(content.graphs(), bank)
    recipe = recipe_from_bundle(content, policy_from_manifest(manifest, demo_key=True), engine)
    rows = folded_rows(bank)
    bare = ort.InferenceSession(content.graphs()[0].read_bytes(), providers=["CPUExecutionProvider"])
    photos = dataset_from_folder(data).photos
    picked = [photos[i] for i in np.linspace(0, len(photos) - 1, min(FRAMES_A_BLOCK, len(photos))).astype(int)]
    frames = [
        Frame(p.file, p.part_id, i, utc_now(), time.monotonic_ns(), read_image(p.path)) for i, p in enumerate(picked)
    ]
    tiles = [tensor_from_pixels(f.pixels, manifest.geometry) for f in frames]
    path_ms: list[list[float]] = []
    bare_ms: list[list[float]] = []
    for block in range(BLOCKS + 1):
        path_block, bare_block = [], []
        for seq, frame in enumerate(frames):
            started_ns = time.perf_counter_ns()
            inspect_part(_trigger(seq, frame), recipe, audit_draw=0.5)
            path_block.append((time.perf_counter_ns() - started_ns) / 1e6)
        for tile in tiles:
            started_ns = time.perf_counter_ns()
            bare.run(None, {"image": tile, "bank": rows})
            bare_block.append((time.perf_counter_ns() - started_ns) / 1e6)
        if block:  # the first block is the warm-up
            path_ms.append(path_block)
            bare_ms.append(bare_block)
    engine.close()
    path_p50, bare_p50 = float(np.median(path_ms)), float(np.median(bare_ms))
    allowed_ms = max(5.0, 0.1 * bare_p50)
    figures = {
        "bundle": bundle.name,
        "bank_rows": int(bank.shape[0]),
        "blocks": BLOCKS,
        "frames_a_block": len(frames),
        "path_ms": {f"p{q}": float(np.percentile(path_ms, q)) for q in (50, 95, 99)},
        "bare_ms": {f"p{q}": float(np.percentile(bare_ms, q)) for q in (50, 95, 99)},
        "above_bare_ms": path_p50 - bare_p50,
        "allowed_ms": allowed_ms,
    }
    echo(
        f"frame in memory to verdict p50 {path_p50:.2f} ms, bare ONNX Runtime {bare_p50:.2f} ms: "
        f"{path_p50 - bare_p50:+.2f} ms (allowed {allowed_ms:.1f} ms)"
    )
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if path_p50 - bare_p50 > allowed_ms:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(bench, "path")
