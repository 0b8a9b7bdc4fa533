"""Every variant of a trained RUN side by side: size, TensorRT-RTX build on the CPU, and accuracy.

Each variant is compared with PyTorch in FP32 on photographs not used for training, with the thresholds of the run's
calibration. Engines are built but not run, because that needs a GPU. On a CPU, ONNX Runtime computes FP16 layers in
FP32; only their weights are FP16.

    python -m tools.benchmarks.variant_table --run RUN
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rich.table import Table

from calibration.calibrate import calibrate_run
from edge.anomaly import folded_rows
from edge.bundle.manifest import DefectType
from edge.bundle.records import CalibrationRecord
from edge.cli.program import run_program
from edge.engine.ort import OrtEngine
from edge.engine.protocol import Outputs
from edge.engine.scores import scores_from_outputs
from edge.engine.trt_library import library_from_kind
from edge.messages import Verdict, of_main_view
from edge.policy import decide, policy_without_authority
from edge.preprocess import inspected_patches
from edge.terminal import Console
from export.bank.candidates import tiles_from_photo
from export.bank.memory_bank import MemoryBank
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import build_engine
from export.export import export_run
from export.golden import AUDIT_DRAW_NEVER
from export.graph.inspection_graph import InspectionGraph
from export.graph.parity import reference_outputs
from training.data.run_files import CHECKPOINT_FILE, TRAIN_FILE, TrainRecord, graphs_of_run, read_record
from training.model import model_from_checkpoint

BANK_ROWS = 4096
HEADINGS = (
    "form",
    "precision",
    "ONNX MB",
    "parse and build s",
    "engine MB",
    "worst logit",
    "worst distance",
    "in spreads",
    "flips",
    "map drift",
    "search error",
)
Tiles = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """The frames with PyTorch's outputs for them, the memory bank and the run's calibration."""

    frames: Sequence[Tiles]
    references: Sequence[Outputs]
    bank: NDArray[np.float32]
    calibrated: CalibrationRecord

    def verdict(self, outputs: Outputs) -> Verdict:
        """The device's verdict before any type has authority."""
        types = tuple(
            DefectType(name=name, images=0, parts=0, limit=limit) for name, limit in self.calibrated.types.items()
        )
        policy = policy_without_authority(types, self.calibrated.anomaly)
        return decide(of_main_view(scores_from_outputs(outputs)), policy, AUDIT_DRAW_NEVER).verdict


@click.command()
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Run made by `procunit train`.")
@click.option("--frames", default=50, show_default=True, help="Photographs to compare on, none used for training.")
def variant_table(run: Path, frames: int) -> None:
    """Export every variant of RUN, fused and separate, and print a table of them."""
    table = Table(*HEADINGS, title=f"{run.name}, {frames} photographs")
    comparison: Comparison | None = None
    with TemporaryDirectory(prefix="variants-") as directory:
        for form in ("fused", "separate"):
            copy = Path(directory) / form
            copy.mkdir()
            for file in (TRAIN_FILE, CHECKPOINT_FILE):
                shutil.copyfile(run / file, copy / file)
            exported = export_run(copy, BANK_ROWS, Console(stderr=True), int8=True, separate=form == "separate")
            comparison = comparison or comparison_from_run(copy, exported.bank, frames)
            for precision in exported.record.differences:
                graphs = graphs_of_run(copy, exported.record, precision)
                table.add_row(form, precision, *row_of_graphs(graphs, comparison))
    Console(width=150).print(table)


def comparison_from_run(run: Path, bank: MemoryBank, count: int) -> Comparison:
    """Calibrate an exported run and choose photographs unseen by head and bank, evenly over the folders."""
    record = read_record(run, TRAIN_FILE, TrainRecord)
    calibrated = calibrate_run(run)
    unseen = [photo for photo in record.photos if photo.role == "seed"]
    frames = [tiles_from_photo(photo, record) for photo in unseen[:: max(1, len(unseen) // count)][:count]]
    graph = InspectionGraph(model_from_checkpoint(run, record), bank.space)
    return Comparison(frames, reference_outputs(graph, bank.rows, frames), bank.rows, calibrated)


def row_of_graphs(graphs: Sequence[Path], comparison: Comparison) -> list[str]:
    """One variant's figures; its search is compared with float64 on the graph's own features."""
    seconds, engine_bytes = built(graphs, len(comparison.frames[0]))
    engine = OrtEngine(graphs, comparison.bank)
    found = [engine.infer(tiles) for tiles in comparison.frames]
    engine.close()
    pairs = list(zip(found, comparison.references, strict=True))
    logit = max(float(np.abs(f.logits - r.logits).max(initial=0)) for f, r in pairs)
    distance = max(float(np.abs(f.anomaly_score - r.anomaly_score).max()) for f, r in pairs)
    flips = sum(comparison.verdict(f) != comparison.verdict(r) for f, r in pairs)
    spreads = [limit.spread for limit in comparison.calibrated.types.values()]
    drift = max(
        [float((np.abs(f.logits.max(0) - r.logits.max(0)) / spreads).max()) for f, r in pairs]
        + ([distance / comparison.calibrated.anomaly.spread] if comparison.calibrated.anomaly else [])
    )
    return [
        f"{sum(graph.stat().st_size for graph in graphs) / 1e6:.1f}",
        f"{seconds:.1f}",
        f"{engine_bytes / 1e6:.1f}",
        f"{logit:.2g}",
        f"{distance:.2g}",
        f"{drift:.2g}",
        f"{flips}",
        f"{np.mean([np.abs(f.anomaly_map - r.anomaly_map).mean() for f, r in pairs]):.1e}",
        f"{worst_search_error(graphs[-1], comparison):.1e}",
    ]


def built(graphs: Sequence[Path], tiles: int) -> tuple[float, int]:
    """Seconds that TensorRT-RTX takes to parse and build the graphs on this CPU, and the engines' size in bytes."""
    library = library_from_kind("tensorrt_rtx")
    started_s = time.monotonic()
    plans = [build_engine(g, library, tiles=tiles, timing=b"", tracker=BuildTracker()).plan for g in graphs]
    return time.monotonic() - started_s, sum(map(len, plans))


def worst_search_error(graph: Path, comparison: Comparison) -> float:
    """The largest relative error of any inspected patch's distance, compared with float64 on the same features."""
    model = onnx.load(graph)
    product = next(
        n for n in model.graph.node if n.op_type in {"Gemm", "MatMul"} and _follows(model, n.input[1], "bank")
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info(product.input[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows, scales = comparison.bank[:, :-1].astype(np.float64), comparison.bank[:, -1].astype(np.float64)
    worst = 0.0
    for tiles in comparison.frames:
        anomaly_map, joined = session.run(
            ["anomaly_map", product.input[0]], {"image": tiles, "bank": folded_rows(comparison.bank)}
        )
        inspected = inspected_patches(tiles).ravel()
        wide = np.asarray(joined, np.float64)[inspected, :-2]  # the last two columns are the squares' sum and 1
        squares = ((wide**2).sum(1)[:, None] - 2 * wide @ rows.T + (rows**2).sum(1)) / scales**2
        nearest = squares.argmin(1)
        exact = np.linalg.norm(wide - rows[nearest], axis=1) / scales[nearest]
        worst = max(worst, float(np.abs(anomaly_map.ravel()[inspected] / exact - 1).max()))
    return worst


def _follows(model: onnx.ModelProto, name: str, source: str) -> bool:
    maker = {output: node for node in model.graph.node for output in node.output}
    return name == source or (name in maker and any(_follows(model, i, source) for i in maker[name].input))


if __name__ == "__main__":
    run_program(variant_table, "variant_table")
