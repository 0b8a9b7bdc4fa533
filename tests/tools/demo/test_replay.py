"""The demonstration replays only photographs not used for training, and empties only its own folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import pytest

from edge.camera.replay import replay_rows_from_csv
from edge.geometry import Geometry
from tools.demo.__main__ import check_rate, prepare_folder
from tools.demo.replay import parts_from_run, read_replay_list, write_replay_list
from training.data.run_files import TRAIN_FILE, RunPhoto, SplitSide, TrainRecord, read_record, write_record


def photo(name: str, role: SplitSide, label: str, content: str | None = None) -> RunPhoto:
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    return RunPhoto(sha256=sha256, part_id=f"part-{name}", label=label, role=role, file=f"{label}/{name}.png")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    photos = [photo(f"g{i}", "seed", "good") for i in range(8)] + [photo(f"s{i}", "seed", "scratch") for i in range(3)]
    photos += [photo("t", "train", "good"), photo("c", "calibrate", "good"), photo("copy", "seed", "good", content="t")]
    record = TrainRecord(
        data=str(tmp_path / "data"),
        dataset_sha256="0" * 64,
        product="p",
        seed=1,
        backbone="b",
        weights="w",
        geometry=Geometry(),
        types=("scratch",),
        photos=tuple(photos),
        out_of_fold_auc={},
        packages={},
        code_version="0",
    )
    write_record(tmp_path, TRAIN_FILE, record)
    return tmp_path


def test_only_reserved_photographs_are_replayed_and_no_copy_of_a_taught_one(run: Path) -> None:
    parts = parts_from_run(run, seed=8)
    assert sorted(Path(part.file).stem for part in parts) == [f"g{i}" for i in range(8)] + [f"s{i}" for i in range(3)]
    assert {part.truth for part in parts} == {"good", "scratch"}
    assert all(part.file == str(run / "data" / part.truth / f"{part.part_id[5:]}.png") for part in parts)


def test_a_run_without_reserved_photographs_is_reported(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    taught = tuple(photo for photo in record.photos if photo.role != "seed")
    write_record(run, TRAIN_FILE, record.model_copy(update={"photos": taught}))
    with pytest.raises(click.ClickException, match="too few parts"):
        parts_from_run(run, seed=8)


def test_the_order_is_shuffled_by_the_seed(run: Path) -> None:
    parts = parts_from_run(run, seed=8)
    assert parts == parts_from_run(run, seed=8)
    assert parts != parts_from_run(run, seed=9)
    assert [part.truth for part in parts] != sorted(part.truth for part in parts)


def test_the_list_is_what_the_replay_camera_reads(run: Path) -> None:
    parts = parts_from_run(run, seed=8)
    write_replay_list(run / "line.csv", parts)
    assert read_replay_list(run / "line.csv") == parts
    rows = replay_rows_from_csv(run / "line.csv")
    assert [(str(row.image), row.part_id) for row in rows] == [(part.file, part.part_id) for part in parts]


def test_the_work_folder_is_created_and_emptied_next_time(tmp_path: Path) -> None:
    out = tmp_path / "work" / "demo"
    prepare_folder(out, None)
    (out / "old").mkdir()
    prepare_folder(out, tmp_path)
    assert [path.name for path in out.iterdir()] == [".procunit-demo"]


def test_a_folder_with_other_files_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(click.ClickException, match="not from a demonstration"):
        prepare_folder(tmp_path, None)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_photographs_inside_the_work_folder_are_not_deleted(tmp_path: Path) -> None:
    prepare_folder(tmp_path, None)
    (tmp_path / "parts").mkdir()
    with pytest.raises(click.ClickException, match="contains the photographs"):
        prepare_folder(tmp_path, tmp_path / "parts")
    assert (tmp_path / "parts").is_dir()


@pytest.mark.parametrize("rate", ["max", "120", "0.5", "60000"])
def test_valid_rates(rate: str) -> None:
    context = click.Context(click.Command("demo"))
    assert check_rate(context, click.Option(["--rate"]), rate) == rate


@pytest.mark.parametrize("rate", ["", "fast", "0", "-3", "nan", "1e3", "60001", "1.2.3"])
def test_invalid_rates_are_refused(rate: str) -> None:
    with pytest.raises(click.BadParameter, match="parts per minute"):
        check_rate(click.Context(click.Command("demo")), click.Option(["--rate"]), rate)
