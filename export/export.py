"""Export a RUN: from its checkpoint to ONNX graphs and memory bank, compared with PyTorch on real photographs."""

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
from export.bank.memory_bank import MemoryBank, bank_photos, build_memory_bank
from export.bank.suspects import suspects_page
from export.graph.inspection_graph import OPSET, InspectionGraph, PatchesGraph, graphs_from_model, onnx_from_graph
from export.graph.parity import check_difference, difference_of_graphs, reference_outputs
from export.graph.precision import MAX_ACTIVATION, fold_batch_norms, largest_activation, to_fp16
from export.graph.quantize import to_int8
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
"""Photographs on which the graphs are compared with PyTorch."""
RANGE_FRAMES = 36
"""Photographs from which the INT8 ranges are calibrated."""
ALL_GRAPH_FILES = tuple(f for p in PRECISIONS for s in (False, True) for f in graph_files(p, separate=s))


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: its record and the memory bank."""

    record: ExportRecord
    bank: MemoryBank


def export_run(run: Path, bank_rows: int, console: Console, *, int8: bool = False, separate: bool = False) -> Exported:
    """Write graphs, memory bank and record into the run, or nothing at all; files of an earlier export are removed.

    Raises:
        ProcunitError: the run is not trained, a photograph is missing or has changed, or a graph differs from PyTorch.
    """
    record = read_record(run, TRAIN_FILE, TrainRecord)
    model = model_from_checkpoint(run, record)
    bank = build_memory_bank(model, record, bank_rows, console)
    photos = training_photos(record, RANGE_FRAMES if int8 else PARITY_FRAMES)
    calibration_frames = [tiles_from_photo(photo, record) for photo in photos]
    parity_frames = calibration_frames[:: len(calibration_frames) // PARITY_FRAMES or 1]
    references = reference_outputs(InspectionGraph(model, bank.space), bank.rows, parity_frames)
    with TemporaryDirectory(prefix=".export-", dir=run) as directory:
        differences: dict[Precision, Difference] = {}
        for precision, variant in _variants(model, calibration_frames, int8, console):
            paths = [Path(directory) / name for name in graph_files(precision, separate=separate)]
            for graph, path in zip(graphs_from_model(variant, bank.space, separate=separate), paths, strict=True):
                onnx_from_graph(graph, record.geometry, path)
            differences[precision] = difference_of_graphs(paths, bank.rows, parity_frames, references)
            check_difference(differences[precision], precision, paths[0])
        onnx_from_graph(PatchesGraph(model, bank.space), record.geometry, Path(directory) / PATCHES_GRAPH)
        (Path(directory) / BANK_FILE).write_bytes(safetensors_bytes({BANK_KEY: bank.rows}))
        folds = {str(fold): rows for fold, rows in enumerate(bank.fold_rows)}
        (Path(directory) / FOLD_BANKS_FILE).write_bytes(safetensors_bytes(folds))
        if bank.suspects:
            page = _suspects_page(bank, record, [Path(directory) / name for name in graph_files(separate=separate)])
            (Path(directory) / SUSPECTS_FILE).write_text(page, encoding="utf-8")
        for outdated in (EXPORT_FILE, CALIBRATION_FILE, HELD_OUT_FILE, SUSPECTS_FILE, *ALL_GRAPH_FILES):
            (run / outdated).unlink(missing_ok=True)
        for path in Path(directory).iterdir():
            path.replace(run / path.name)
    exported = ExportRecord(
        opset=OPSET,
        separate=separate,
        bank_rows=len(bank.rows),
        feature_size=bank.rows.shape[1] - 1,
        bank_parts=len({photo.part_id for photo in bank_photos(record)}),
        fold_of=dict(bank.fold_of),
        parity_frames=len(parity_frames),
        differences=differences,
    )
    write_record(run, EXPORT_FILE, exported)
    return Exported(exported, bank)


def _suspects_page(bank: MemoryBank, record: TrainRecord, graphs: Sequence[Path]) -> str:
    engine = OrtEngine(graphs, bank.rows)
    try:
        return suspects_page(bank.suspects, bank.rows, bank.part_of_row, record, engine)
    finally:
        engine.close()


def _variants(
    model: InspectionModel, frames_u8: Sequence[NDArray[np.uint8]], int8: bool, console: Console
) -> Iterator[tuple[Precision, InspectionModel]]:
    """The model in each precision. If FP16 could overflow, a warning is printed and only FP32 is exported."""
    reference = fold_batch_norms(model, frames_u8[0])
    yield "fp32", reference
    largest = largest_activation(reference, frames_u8)
    if not largest <= MAX_ACTIVATION:
        console.print(
            f"Warning: only FP32 is exported: activations reach {largest:.3g}, and FP16 ends at "
            f"{torch.finfo(torch.float16).max:.0f}",
            style="yellow",
        )
        return
    yield "fp16", to_fp16(reference)
    if int8:
        yield "int8", to_int8(reference, frames_u8)


def training_photos(record: TrainRecord, count: int) -> list[RunPhoto]:
    """At most `count` photographs that the head was trained on, evenly spaced over the folders."""
    return evenly_spaced([photo for photo in record.photos if photo.role == "train"], count)
