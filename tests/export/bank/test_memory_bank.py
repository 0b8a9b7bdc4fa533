"""The memory bank of a run: its rows, their local scale, and the banks without a fold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.bundle.manifest import GOOD
from export.bank.candidates import patches_from_photo, selection_from_photos
from export.bank.memory_bank import (
    FOLDS,
    SCALE_NEIGHBOURS,
    MemoryBank,
    bank_photos,
    build_memory_bank,
    folds_of_held_out,
    rows_with_local_scale,
)
from tests.export import textbook
from tests.export.textbook import Floats
from training.data.run_files import TRAIN_FILE, RunPhoto, TrainRecord, read_record
from training.model import InspectionModel, model_from_checkpoint

ROWS = 100
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def record(trained: Path) -> TrainRecord:
    return read_record(trained, TRAIN_FILE, TrainRecord)


@pytest.fixture(scope="module")
def model(trained: Path, record: TrainRecord) -> InspectionModel:
    return model_from_checkpoint(trained, record)


@pytest.fixture(scope="module")
def made(model: InspectionModel, record: TrainRecord) -> MemoryBank:
    return build_memory_bank(model, record, ROWS, QUIET)


def _patches(model: InspectionModel, record: TrainRecord, made: MemoryBank, part_id: str) -> Floats:
    """All patches of a good part in the bank's space."""
    photos = [photo for photo in bank_photos(record) if photo.part_id == part_id]
    return np.concatenate([made.space.apply(patches_from_photo(model, photo, record).features) for photo in photos])


def _shared(rows: Floats, patches: Floats) -> int:
    """How many rows are one of the patches."""
    return len({row.tobytes() for row in rows[:, :-1]} & {patch.tobytes() for patch in patches})


def _held_out(part: int, role: str) -> RunPhoto:
    sha256 = f"{part:064x}"
    return RunPhoto.model_validate(
        {"sha256": sha256, "part_id": f"p{part}", "label": "good", "role": role, "file": f"good/{part}.png"}
    )


@given(rows=st.integers(1, 60), size=st.integers(2, 63), seed=st.integers(0, 1000))
def test_the_local_scale_is_the_geometric_mean_of_the_neighbour_distance_and_its_median(
    rows: int, size: int, seed: int
) -> None:
    features = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    found = rows_with_local_scale(torch.from_numpy(features)).numpy()
    np.testing.assert_array_equal(found[:, :-1], features)
    exact = features.astype(np.float64)
    apart = np.sort(np.linalg.norm(exact[:, np.newaxis] - exact, axis=2), axis=1)[:, 1 : 1 + SCALE_NEIGHBOURS]
    wanted = np.sqrt(apart.mean(1) * np.sort(apart.mean(1))[(rows - 1) // 2]) if rows > 1 else np.ones(1)
    np.testing.assert_allclose(found[:, -1], wanted, rtol=1e-3)


def test_equal_rows_have_a_positive_local_scale() -> None:
    found = rows_with_local_scale(torch.full((20, 5), 3.0)).numpy()
    assert (found[:, -1] > 0).all()
    assert np.isfinite(textbook.distances(found[:, :-1], found)).all()


@given(held_out=st.integers(0, 40), others=st.integers(0, 10), seed=st.integers(0, 100))
def test_every_held_out_part_has_one_fold_and_folds_are_of_equal_size(held_out: int, others: int, seed: int) -> None:
    photos = [_held_out(part, "calibrate") for part in range(held_out)] * 2
    photos += [_held_out(100 + part, "train") for part in range(others)]
    folds = folds_of_held_out(photos, seed)
    assert set(folds) == {f"p{part}" for part in range(held_out)}
    sizes = np.bincount(list(folds.values()), minlength=1)
    assert len(sizes) == max(1, min(FOLDS, held_out))
    assert sizes.max() - sizes.min() <= 1
    assert folds == folds_of_held_out(photos[::-1], seed)


def test_the_bank_is_built_from_good_parts_outside_the_seeded_run(record: TrainRecord, made: MemoryBank) -> None:
    photos = bank_photos(record)
    assert {(photo.role, photo.label) for photo in photos} == {("train", "good"), ("calibrate", "good")}
    assert set(made.fold_of) == {photo.part_id for photo in photos if photo.role == "calibrate"}
    assert len(made.fold_rows) == len(set(made.fold_of.values())) == 3
    assert [len(rows) for rows in (made.rows, *made.fold_rows)] == [ROWS] * 4


def test_the_same_run_gives_the_same_banks(model: InspectionModel, record: TrainRecord, made: MemoryBank) -> None:
    again = build_memory_bank(model, record, ROWS, QUIET)
    for first, other in zip((made.rows, *made.fold_rows), (again.rows, *again.fold_rows), strict=True):
        np.testing.assert_array_equal(first, other)


def test_the_bank_of_a_fold_has_patches_of_the_other_parts_only(
    model: InspectionModel, record: TrainRecord, made: MemoryBank
) -> None:
    for part_id, fold in made.fold_of.items():
        patches = _patches(model, record, made, part_id)
        assert _shared(made.rows, patches) > 0
        shared = [_shared(rows, patches) for rows in made.fold_rows]
        assert shared[fold] == 0
        assert all(count > 0 for other, count in enumerate(shared) if other != fold)


@pytest.mark.parametrize("max_candidates", [None, 200])
def test_no_allowed_patch_is_farther_than_the_covering_radius(
    model: InspectionModel,
    record: TrainRecord,
    made: MemoryBank,
    monkeypatch: pytest.MonkeyPatch,
    max_candidates: int | None,
) -> None:
    if max_candidates is not None:
        monkeypatch.setattr("export.bank.candidates.MAX_CANDIDATES", max_candidates)
        made = build_memory_bank(model, record, ROWS, QUIET)
    photos = bank_photos(record)
    read = partial(patches_from_photo, model, record=record)
    selection = selection_from_photos(read, model.channels_of_stride8, photos, record, QUIET)
    for photo in photos:
        found = read(photo)
        allowed = made.space.apply(found.features[found.defect_logits <= selection.max_defect_logit])
        assert textbook.covering_radius(allowed, made.rows[:, :-1]) <= made.covering_radius + 1e-3


def test_a_good_part_that_the_head_takes_for_defective_gives_no_row(trained: Path) -> None:
    """The map does not cover all of a defect, so the part is excluded whole; it is still listed as a suspect."""
    record = read_record(trained, TRAIN_FILE, TrainRecord)
    hidden = next(photo.part_id for photo in record.photos if photo.label == "line" and photo.role == "train")
    photos = tuple(
        photo.model_copy(update={"label": GOOD, "mask": None}) if photo.part_id == hidden else photo
        for photo in record.photos
    )
    mislabelled = record.model_copy(update={"photos": photos})
    made = build_memory_bank(model_from_checkpoint(trained, record), mislabelled, 60, QUIET)
    assert hidden in {suspect.part_id for suspect in made.suspects}
    sure = next(suspect for suspect in made.suspects if suspect.part_id == hidden)
    assert sure.reason.startswith("looks like line")
    assert hidden not in set(made.part_of_row.tolist())
