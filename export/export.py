"""One export: the checkpoint of a RUN to its graph and bank, checked against torch on real photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from edge.manifest import BANK_KEY
from edge.preprocess import mask_tiles, tensor_from_pixels
from edge.runfiles import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    MODEL_FILE,
    TRAIN_FILE,
    ExportRecord,
    RunPhoto,
    TrainRecord,
    read_record,
    write_record,
)
from export.bank import Matrix, candidates_per_photo, covering_radius, k_center_greedy, projected
from export.graph import OPSET, InspectionGraph, onnx_from_graph, patch_scale
from export.parity import parity_of_graph
from training.model import InspectionModel, each_on_one_core, model_from_checkpoint, patch_features

PARITY_FRAMES = 12
"""Photographs, at their own size, that the graph is compared with torch on."""
_PATCH_PX = 16


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how far the farthest patch that was learned from lies from the bank."""

    record: ExportRecord
    covering_radius: float


def export_run(run: Path, bank_rows: int, console: Console) -> Exported:
    """Write graph, bank and record into the run, each whole or not at all; what followed an earlier export is removed.

    Raises:
        ProcunitError: the run is not trained, its photographs are gone or changed, or the graph differs from torch.
    """
    record = read_record(run, TRAIN_FILE, TrainRecord)
    model = model_from_checkpoint(run, record)
    photos = bank_photos(record)
    patches = _patches(model, photos, record, console)
    scale = patch_scale(patches)
    patches = scale.apply(patches)
    points = projected(patches, record.seed)
    chosen = k_center_greedy(points, bank_rows, record.seed)
    rows = min(bank_rows, len(points))
    bank = patches[list(track(chosen, "Choosing the bank's rows", total=rows, console=console))]

    graph = InspectionGraph(model, scale)
    partial_model, partial_bank = run / f".{MODEL_FILE}.partial", run / f".{BANK_FILE}.partial"
    try:
        onnx_from_graph(graph, record.geometry, partial_model)
        frames = [_tiles(photo, record) for photo in parity_photos(record)]
        parity = parity_of_graph(graph, partial_model, bank, frames)
        partial_bank.write_bytes(safetensors_bytes({BANK_KEY: bank}))
        for outdated in (EXPORT_FILE, CALIBRATION_FILE):
            (run / outdated).unlink(missing_ok=True)
        partial_model.replace(run / MODEL_FILE)
        partial_bank.replace(run / BANK_FILE)
    finally:
        partial_model.unlink(missing_ok=True)
        partial_bank.unlink(missing_ok=True)
    exported = ExportRecord(
        opset=OPSET,
        bank_rows=len(bank),
        feature_size=bank.shape[1],
        bank_parts=len({photo.part_id for photo in photos}),
        parity_frames=parity.frames,
        worst_logit_difference=parity.worst_logit,
        worst_anomaly_difference=parity.worst_anomaly,
    )
    write_record(run, EXPORT_FILE, exported)
    return Exported(exported, covering_radius(patches, bank))


def bank_photos(record: TrainRecord) -> list[RunPhoto]:
    """The photographs that the bank is made of: good ones that were learned from, else the defect ones."""
    taught = [photo for photo in record.photos if photo.role == "train"]
    return [photo for photo in taught if photo.label == GOOD] or taught


def parity_photos(record: TrainRecord) -> list[RunPhoto]:
    """Photographs that were learned from, evenly spaced over the folders."""
    taught = [photo for photo in record.photos if photo.role == "train"]
    count = min(PARITY_FRAMES, len(taught))
    return [taught[(2 * place + 1) * len(taught) // (2 * count)] for place in range(count)]


def _patches(model: InspectionModel, photos: Sequence[RunPhoto], record: TrainRecord, console: Console) -> Matrix:
    """Patches [n, D] without a defect, drawn evenly from the photographs."""

    @torch.inference_mode()
    def drawn(photo: RunPhoto) -> Matrix:
        taps = model.taps(torch.from_numpy(_tiles(photo, record)))
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


def _tiles(photo: RunPhoto, record: TrainRecord) -> NDArray[np.uint8]:
    """A photograph as it enters the graph.

    Raises:
        ProcunitError: it is gone or was changed since the training.
    """
    path = Path(record.data) / photo.file
    pixels = read_image(path)
    if file_entry_from_path(path).sha256 != photo.sha256:
        raise ProcunitError("has changed since the training", where=str(path), remedy="Run `procunit train` again")
    return tensor_from_pixels(pixels, record.geometry)
