"""Candidates for the memory bank: inspected patches of good parts, outside masks and patches that the head flags."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edge.bundle.manifest import GOOD
from edge.image_file import read_image
from edge.preprocess import inspected_patches, mask_tiles, patches_with_any, tensor_from_pixels
from export.bank.candidates import (
    MAX_EXCLUDED_SHARE,
    PatchReader,
    PatchSelection,
    candidates_from_photos,
    patches_from_photo,
    selection_from_photos,
)
from export.bank.memory_bank import bank_photos
from tests.export import textbook
from tests.export.textbook import Floats
from training.data.dataset import read_mask
from training.data.run_files import TRAIN_FILE, RunPhoto, TrainRecord, read_record
from training.model import InspectionModel, model_from_checkpoint

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def record(trained: Path) -> TrainRecord:
    return read_record(trained, TRAIN_FILE, TrainRecord)


@pytest.fixture
def model(trained: Path, record: TrainRecord) -> InspectionModel:
    return model_from_checkpoint(trained, record)


def _covered(photo: RunPhoto, record: TrainRecord) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which patches of a photograph show a part of its mask: [n]."""
    data = Path(record.data)
    mask = read_mask(data / str(photo.mask), *read_image(data / photo.file).shape[:2])
    return patches_with_any(mask_tiles(mask, record.geometry) > 0).ravel()


def _reader_and_selection(
    model: InspectionModel, photos: Sequence[RunPhoto], record: TrainRecord
) -> tuple[PatchReader, PatchSelection]:
    read = partial(patches_from_photo, model, record=record)
    return read, selection_from_photos(read, model.channels_of_stride8, photos, record, QUIET)


def _among(patches: Floats, of: Floats) -> int:
    return len({patch.tobytes() for patch in patches} & {patch.tobytes() for patch in of})


def test_a_photograph_gives_its_inspected_patches_outside_its_mask(model: InspectionModel, record: TrainRecord) -> None:
    wide = record.geometry.model_copy(update={"input_height_px": 96, "input_width_px": 192})
    letterboxed = record.model_copy(update={"geometry": wide})
    for photo in (next(p for p in record.photos if p.label == label) for label in (GOOD, "spot", "line")):
        pixels = read_image(Path(record.data) / photo.file)
        inspected = inspected_patches(tensor_from_pixels(pixels, wide)).ravel()
        assert 0.3 < inspected.mean() < 0.9
        kept = inspected if photo.mask is None else inspected & ~_covered(photo, letterboxed)
        assert (kept.sum() < inspected.sum()) == (photo.label != GOOD)
        assert len(patches_from_photo(model, photo, letterboxed).features) == kept.sum()


def test_another_padding_does_not_change_the_inspected_patches(model: InspectionModel, record: TrainRecord) -> None:
    photo = next(p for p in record.photos if p.label == GOOD)
    sides = [{"input_height_px": 64, "input_width_px": 96}, {"input_height_px": 64, "input_width_px": 160}]
    geometries = [record.geometry.model_copy(update=side) for side in sides]
    found = [patches_from_photo(model, photo, record.model_copy(update={"geometry": g})) for g in geometries]
    tiles = [tensor_from_pixels(read_image(Path(record.data) / photo.file), g) for g in geometries]
    narrow, wide = (inspected_patches(tile)[0] for tile in tiles)
    np.testing.assert_array_equal(wide[:, 2:-2], narrow)
    assert not wide[:, :2].any()
    assert len(found[0].features) == len(found[1].features) == narrow.sum()


def test_the_defect_of_a_mislabelled_part_is_excluded(model: InspectionModel, record: TrainRecord) -> None:
    spot = next(photo for photo in record.photos if photo.label == "spot" and photo.role == "seed")
    mislabelled = spot.model_copy(update={"label": GOOD, "role": "calibrate", "mask": None})
    photos = [*bank_photos(record), mislabelled]
    read, selection = _reader_and_selection(model, photos, record)
    candidates = candidates_from_photos(read, photos, record, selection, QUIET)
    found = read(mislabelled)
    assert found.logits.max() > 0, "the head knows the spot"
    flagged = found.features[found.defect_logits > selection.max_defect_logit]
    assert len(flagged) >= 2, "the spot covers about two patches"
    in_bank = candidates.patches[candidates.photo_index == len(photos) - 1].numpy()
    assert 0 < len(in_bank) < len(found.features)
    assert _among(selection.space.apply(flagged), in_bank) == 0
    assert candidates.excluded_share[-1] == pytest.approx(1 - len(in_bank) / len(found.features))
    assert candidates.excluded_share[-1] > candidates.excluded_share[:-1].mean()


def test_a_head_that_flags_everything_excludes_a_limited_share(model: InspectionModel, record: TrainRecord) -> None:
    assert model.head is not None
    model.head.bias.data += 100
    photos = bank_photos(record)
    read, selection = _reader_and_selection(model, photos, record)
    candidates = candidates_from_photos(read, photos, record, selection, QUIET)
    assert 0 < candidates.excluded_share.mean() <= MAX_EXCLUDED_SHARE + 1e-3


def test_each_photograph_gives_its_quota_and_the_loss_is_reported(
    model: InspectionModel, record: TrainRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = bank_photos(record)
    read, selection = _reader_and_selection(model, photos, record)
    everything = candidates_from_photos(read, photos, record, selection, QUIET)
    assert everything.subsampling_radius == 0
    monkeypatch.setattr("export.bank.candidates.MAX_CANDIDATES", 10 * len(photos) + 9)
    few = candidates_from_photos(read, photos, record, selection, QUIET)
    assert np.bincount(few.photo_index.numpy()).tolist() == [10] * len(photos)
    lost = [
        textbook.covering_radius(*(one.patches[one.photo_index == place].numpy() for one in (everything, few)))
        for place in range(len(photos))
    ]
    assert few.subsampling_radius == pytest.approx(max(lost), rel=1e-3)
