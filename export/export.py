"""One export: the checkpoint of a RUN to its graph and bank, checked against torch on real photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save as safetensors_bytes

from edge.bundle.manifest import BANK_KEY, PATCHES_GRAPH, PRECISIONS, Precision, graph_files
from edge.engine.ort import OrtEngine
from export.bank.candidates import evenly_spaced, tiles_from_photo
from export.bank.memory_bank import MadeBank, bank_photos, made_bank
from export.bank.suspects import suspects_page
from export.graph.inspection_graph import OPSET, InspectionGraph, PatchesGraph, graphs_from_model, onnx_from_graph
from export.graph.parity import check_difference, difference_of_graphs, reference_outputs
from export.graph.precision import MAX_ACTIVATION, folded, in_half, largest_activation
from export.graph.quantize import in_int8
from export.report import SUSPECTS_FILE
from training.data.run_files import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    FOLD_BANKS_FILE,
    HELD_OUT_FILE,
    TRAIN_FILE,
    Difference,
    ExportRecord,
    RunPhoto,
    TrainRecord,
    read_record,
    write_record,
)
from training.model import InspectionModel, model_from_checkpoint

PARITY_FRAMES = 12
"""Photographs, at their own size, that the graphs are compared with torch on."""
RANGE_FRAMES = 36
"""Photographs that INT8 ranges are taken from."""
ALL_GRAPH_FILES = tuple(f for p in PRECISIONS for s in (False, True) for f in graph_files(p, separate=s))


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and the bank."""

    record: ExportRecord
    bank: MadeBank


def export_run(run: Path, bank_rows: int, console: Console, *, int8: bool = False, separate: bool = False) -> Exported:
    """Write graphs, bank and record into the run, or nothing at all; what an earlier export left is removed.

    Raises:
        ProcunitError: the run is not trained, its photographs are gone or changed, or a graph is not what torch gives.
    """
    record = read_record(run, TRAIN_FILE, TrainRecord)
    model = model_from_checkpoint(run, record)
    made = made_bank(model, record, bank_rows, console)
    space, bank = made.space, made.rows
    shown = learned_photos(record, RANGE_FRAMES if int8 else PARITY_FRAMES)
    taught = [tiles_from_photo(photo, record) for photo in shown]
    frames = taught[:: len(taught) // PARITY_FRAMES or 1]
    references = reference_outputs(InspectionGraph(model, space), bank, frames)
    with TemporaryDirectory(prefix=".export-", dir=run) as directory:
        differences: dict[Precision, Difference] = {}
        for precision, variant in _variants(model, taught, int8, console):
            paths = [Path(directory) / name for name in graph_files(precision, separate=separate)]
            for graph, path in zip(graphs_from_model(variant, space, separate=separate), paths, strict=True):
                onnx_from_graph(graph, record.geometry, path)
            differences[precision] = difference_of_graphs(paths, bank, frames, references)
            check_difference(differences[precision], precision, paths[0])
        onnx_from_graph(PatchesGraph(model, space), record.geometry, Path(directory) / PATCHES_GRAPH)
        (Path(directory) / BANK_FILE).write_bytes(safetensors_bytes({BANK_KEY: bank}))
        folds = {str(fold): rows for fold, rows in enumerate(made.fold_rows)}
        (Path(directory) / FOLD_BANKS_FILE).write_bytes(safetensors_bytes(folds))
        if made.suspects:
            page = _suspects_page(made, record, [Path(directory) / name for name in graph_files(separate=separate)])
            (Path(directory) / SUSPECTS_FILE).write_text(page, encoding="utf-8")
        for outdated in (EXPORT_FILE, CALIBRATION_FILE, HELD_OUT_FILE, SUSPECTS_FILE, *ALL_GRAPH_FILES):
            (run / outdated).unlink(missing_ok=True)
        for path in Path(directory).iterdir():
            path.replace(run / path.name)
    exported = ExportRecord(
        opset=OPSET,
        separate=separate,
        bank_rows=len(bank),
        feature_size=bank.shape[1] - 1,
        bank_parts=len({photo.part_id for photo in bank_photos(record)}),
        fold_of=dict(made.fold_of),
        parity_frames=len(frames),
        differences=differences,
    )
    write_record(run, EXPORT_FILE, exported)
    return Exported(exported, made)


def _suspects_page(made: MadeBank, record: TrainRecord, graphs: Sequence[Path]) -> str:
    engine = OrtEngine(graphs, made.rows)
    try:
        return suspects_page(made.suspects, made.rows, made.part_of_row, record, engine)
    finally:
        engine.close()


def _variants(
    model: InspectionModel, taught_u8: Sequence[NDArray[np.uint8]], int8: bool, console: Console
) -> Iterator[tuple[Precision, InspectionModel]]:
    """The model in each precision; those with FP16 in them are left out, and that is said, where it may overflow."""
    reference = folded(model, taught_u8[0])
    yield "fp32", reference
    largest = largest_activation(reference, taught_u8)
    if not largest <= MAX_ACTIVATION:
        console.print(
            f"[yellow]Warning:[/] FP32 alone is exported: activations reach {largest:.3g}, and half precision ends at "
            f"{torch.finfo(torch.float16).max:.0f}"
        )
        return
    yield "fp16", in_half(reference)
    if int8:
        yield "int8", in_int8(reference, taught_u8)


def learned_photos(record: TrainRecord, count: int) -> list[RunPhoto]:
    """At most so many photographs that were learned from, evenly spaced over the folders."""
    return evenly_spaced([photo for photo in record.photos if photo.role == "train"], count)
