"""One export: the checkpoint of a RUN to its graph and bank, checked against torch on real photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save as safetensors_bytes

from edge.bundle import file_entry_from_path
from edge.dataset import GOOD, read_image, read_mask
from edge.errors import ProcunitError
from edge.manifest import BANK_KEY, PRECISIONS, Precision, graph_files
from edge.preprocess import mask_tiles, tensor_from_pixels
from edge.runfiles import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    TRAIN_FILE,
    Difference,
    ExportRecord,
    RunPhoto,
    TrainRecord,
    read_record,
    write_record,
)
from export.bank import Matrix, candidates_per_photo, covering_radius, k_center_greedy, projected
from export.graph import OPSET, InspectionGraph, PatchScale, graphs_from_model, onnx_from_graph, patch_scale
from export.parity import check_difference, difference_of_graphs, reference_outputs
from export.precision import MAX_ACTIVATION, folded, in_half, largest_activation
from export.quantize import in_int8
from training.model import InspectionModel, each_on_one_core, model_from_checkpoint, patch_features

PARITY_FRAMES = 12
"""Photographs, at their own size, that the graphs are compared with torch on."""
RANGE_FRAMES = 36
"""Photographs that INT8 ranges are taken from."""
ALL_GRAPH_FILES = tuple(f for p in PRECISIONS for s in (False, True) for f in graph_files(p, separate=s))
_PATCH_PX = 16


@dataclass(frozen=True, slots=True)
class MadeBank:
    """The bank's rows [M, D], what they were scaled by, and how far the farthest patch that was learned from lies."""

    rows: Matrix
    scale: PatchScale
    covering_radius: float


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
    scale, bank = made.scale, made.rows
    shown = learned_photos(record, RANGE_FRAMES if int8 else PARITY_FRAMES)
    taught = [tiles_from_photo(photo, record) for photo in shown]
    frames = taught[:: len(taught) // PARITY_FRAMES or 1]
    references = reference_outputs(InspectionGraph(model, scale), bank, frames)
    with TemporaryDirectory(prefix=".export-", dir=run) as directory:
        differences: dict[Precision, Difference] = {}
        for precision, variant in _variants(model, taught, int8, console):
            paths = [Path(directory) / name for name in graph_files(precision, separate=separate)]
            for graph, path in zip(graphs_from_model(variant, scale, separate=separate), paths, strict=True):
                onnx_from_graph(graph, record.geometry, path)
            differences[precision] = difference_of_graphs(paths, bank, frames, references)
            check_difference(differences[precision], precision, paths[0])
        (Path(directory) / BANK_FILE).write_bytes(safetensors_bytes({BANK_KEY: bank}))
        for outdated in (EXPORT_FILE, CALIBRATION_FILE, *ALL_GRAPH_FILES):
            (run / outdated).unlink(missing_ok=True)
        for path in Path(directory).iterdir():
            path.replace(run / path.name)
    exported = ExportRecord(
        opset=OPSET,
        separate=separate,
        bank_rows=len(bank),
        feature_size=bank.shape[1],
        bank_parts=len({photo.part_id for photo in bank_photos(record)}),
        parity_frames=len(frames),
        differences=differences,
    )
    write_record(run, EXPORT_FILE, exported)
    return Exported(exported, made)


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


def made_bank(model: InspectionModel, record: TrainRecord, bank_rows: int, console: Console) -> MadeBank:
    """The bank of a run; the same run gives the same."""
    patches = _patches(model, bank_photos(record), record, console)
    scale = patch_scale(patches)
    patches = scale.apply(patches)
    points = projected(patches, record.seed)
    chosen = k_center_greedy(points, bank_rows, record.seed)
    rows = min(bank_rows, len(points))
    bank = patches[list(track(chosen, "Choosing the bank's rows", total=rows, console=console))]
    return MadeBank(bank, scale, covering_radius(patches, bank))


def bank_photos(record: TrainRecord) -> list[RunPhoto]:
    """The photographs that the bank is made of: good ones that were learned from, else the defect ones."""
    taught = [photo for photo in record.photos if photo.role == "train"]
    return [photo for photo in taught if photo.label == GOOD] or taught


def learned_photos(record: TrainRecord, count: int) -> list[RunPhoto]:
    """At most so many photographs that were learned from, evenly spaced over the folders."""
    taught = [photo for photo in record.photos if photo.role == "train"]
    count = min(count, len(taught))
    return [taught[(2 * place + 1) * len(taught) // (2 * count)] for place in range(count)]


def _patches(model: InspectionModel, photos: Sequence[RunPhoto], record: TrainRecord, console: Console) -> Matrix:
    """Patches [n, D] without a defect, drawn evenly from the photographs."""

    @torch.inference_mode()
    def drawn(photo: RunPhoto) -> Matrix:
        taps = model.taps(torch.from_numpy(tiles_from_photo(photo, record)))
        patches = patch_features(taps).permute(0, 2, 3, 1).flatten(0, 2).numpy()
        draw = np.random.default_rng((record.seed, int(photo.sha256[:8], 16)))
        clean = draw.permutation(np.flatnonzero(_clean(photo, record)))
        return np.asarray(patches[clean[: candidates_per_photo(len(photos), len(patches))]], np.float32)

    patches = np.concatenate(each_on_one_core(drawn, photos, "Computing features", console))
    if not len(patches):
        raise ProcunitError(
            "the masks leave nothing of any photograph", where=record.data, remedy="Add photographs of good parts"
        )
    return patches


def _clean(photo: RunPhoto, record: TrainRecord) -> NDArray[np.bool_]:
    """Which patches of a photograph's tiles show no part of a mask; all where it has none."""
    geometry = record.geometry
    if photo.mask is None:
        height, width = geometry.input_height_px // _PATCH_PX, geometry.input_width_px // _PATCH_PX
        return np.ones(len(geometry.regions) * height * width, np.bool_)
    data = Path(record.data)
    pixels = read_image(data / photo.file)
    tiles = mask_tiles(read_mask(data / photo.mask, *pixels.shape[:2]), geometry)
    coverage = F.max_pool2d(torch.from_numpy(tiles), _PATCH_PX)
    return (coverage == 0).flatten().numpy()


def tiles_from_photo(photo: RunPhoto, record: TrainRecord) -> NDArray[np.uint8]:
    """A photograph as it enters the graph.

    Raises:
        ProcunitError: it is gone or was changed since the training.
    """
    path = Path(record.data) / photo.file
    pixels = read_image(path)
    if file_entry_from_path(path).sha256 != photo.sha256:
        raise ProcunitError("has changed since the training", where=str(path), remedy="Run `procunit train` again")
    return tensor_from_pixels(pixels, record.geometry)
