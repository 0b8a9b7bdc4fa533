"""Near-duplicates on rendered surfaces: found after any camera change, and never by what all parts share."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from edge.errors import ProcunitError
from training import near_duplicates as module
from training.data.dataset import PARTS_CSV, Dataset, dataset_from_csv, dataset_from_folder
from training.near_duplicates import (
    SUGGESTED_FILE,
    NearDuplicates,
    Pair,
    joined_parts,
    near_duplicates,
    write_suggested,
)

HEIGHT_PX, WIDTH_PX, MARGIN_PX = 160, 200, 24
PARTS = 12

Pixels = NDArray[np.uint8]


def surface(seed: int) -> NDArray[np.float64]:
    """A ground surface wider than the frame: grain at two scales and grooves along it, about 110 bright."""
    draw = np.random.default_rng(seed)
    shape = (HEIGHT_PX + 2 * MARGIN_PX, WIDTH_PX + 2 * MARGIN_PX)
    grain = sum(w * cv2.GaussianBlur(draw.normal(0, 1, shape), (0, 0), s) * s for w, s in ((24.0, 1.5), (40.0, 4.0)))
    return np.asarray(110 + grain + draw.normal(0, 5, (1, shape[1])), np.float64)


def frame(
    part: NDArray[np.float64], seed: int, *, gain: float = 1.0, x_px: int = 0, turn_deg: float = 0.0, scale: float = 1.0
) -> Pixels:
    """A photograph with the camera's noise: `gain` is the exposure, `x_px` a shift, `scale` over 1 shows less."""
    height_px, width_px = part.shape
    turn = cv2.getRotationMatrix2D((width_px / 2, height_px / 2), turn_deg, scale)
    turn[0, 2] += x_px
    seen = cv2.warpAffine(part, turn, (width_px, height_px), borderMode=cv2.BORDER_REFLECT)
    seen = seen[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] * gain
    return np.clip(seen + np.random.default_rng(seed).normal(0, 2, seen.shape), 0, 255).astype(np.uint8)


def write(folder: Path, name: str, pixels: Pixels) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), pixels)


def found_in(root: Path) -> NearDuplicates:
    return near_duplicates(dataset_from_folder(root), Console(quiet=True))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """One photograph of each part."""
    for part in range(PARTS):
        write(tmp_path / "good", f"{part:02}.png", frame(surface(part), 100 + part))
    return tmp_path


@pytest.mark.parametrize(
    "again",
    [
        lambda part: frame(part, 1),
        lambda part: frame(part, 1, gain=0.4),
        lambda part: frame(part, 1, gain=1.5),
        lambda part: frame(part, 1, x_px=20),
        lambda part: frame(part, 1, turn_deg=6, gain=0.7),
        lambda part: frame(part, 1, scale=1.25),
        lambda part: frame(part, 1)[20:, :150],
        lambda part: np.dstack([frame(part, 1, gain=0.8)] * 3),
        lambda part: frame(part, 1).astype(np.uint16) * 16,
    ],
    ids=["same", "dark", "bright", "shifted", "turned", "nearer", "cropped", "colour", "12 bits of 16"],
)
def test_a_part_photographed_again_is_found(parts: Path, again: Callable[[NDArray[np.float64]], Pixels]) -> None:
    write(parts / "scratch", "again.png", again(surface(3)))
    found = found_in(parts)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("good/03.png", "scratch/again.png")]
    assert module.MIN_STRENGTH <= found.pairs[0].strength <= 1


def test_other_parts_with_the_same_kind_of_surface_are_not(parts: Path) -> None:
    found = found_in(parts)
    assert (found.pairs, found.groups, found.warning()) == ((), (), "")


def test_a_design_that_all_parts_share_makes_them_no_duplicates(tmp_path: Path) -> None:
    for part in range(PARTS):
        drawn = surface(part).astype(np.uint8)
        cv2.putText(drawn, "ACME 7", (50, 90), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 10.0, 3)
        for x_px in (60, 180):
            cv2.circle(drawn, (x_px, 130), 14, 230.0, 3)
        write(
            tmp_path / "good",
            f"{part:02}.png",
            frame(drawn.astype(float), 100 + part, x_px=part % 3, turn_deg=part % 4 / 2),
        )
    assert found_in(tmp_path).pairs == ()


def test_photographs_are_grouped_and_the_warning_names_the_groups(parts: Path) -> None:
    for part, photographs in ((2, 3), (5, 2), (7, 2), (8, 2)):
        for again in range(1, photographs):
            write(parts / "dent", f"{part:02}-{again}.png", frame(surface(part), again, gain=0.9, x_px=3 * again))
    found = found_in(parts)
    assert found.groups == (
        ("dent/02-1.png", "dent/02-2.png", "good/02.png"),
        ("dent/05-1.png", "good/05.png"),
        ("dent/07-1.png", "good/07.png"),
        ("dent/08-1.png", "good/08.png"),
    )
    assert [pair.strength for pair in found.pairs] == sorted((pair.strength for pair in found.pairs), reverse=True)
    text = found.warning()
    assert "9 of 17 photographs look like 4 parts" in text
    assert text.count(" of the texture)") == 3
    assert "parts.csv" in text
    assert "part_id_pattern in dataset.yaml" in text


def test_of_too_many_photographs_some_are_drawn_and_the_warning_states_it(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(PARTS):
        write(parts / "dent", f"{part:02}.png", frame(surface(part), part))
    monkeypatch.setattr(module, "MAX_PHOTOS", 18)
    found = found_in(parts)
    assert (found.compared, found.photos) == (18, 24)
    assert "of 18 photographs drawn from 24" in found.warning()
    assert found_in(parts) == found, "the same draw each time"


def test_photographs_that_show_nothing_are_no_duplicates(tmp_path: Path) -> None:
    for name in range(4):
        write(tmp_path / "good", f"{name}.png", np.full((40, 60), 90, np.uint8))
    write(tmp_path / "good", "black.png", np.zeros((40, 60), np.uint8))
    assert found_in(tmp_path).pairs == ()


@pytest.mark.parametrize("photographs", [1, 2, 3, 5])
def test_hardly_any_photographs_are_no_duplicates(tmp_path: Path, photographs: int) -> None:
    for part in range(photographs):
        write(tmp_path / "good", f"{part}.png", frame(surface(part), part))
    assert found_in(tmp_path).pairs == ()
    assert near_duplicates(Dataset(tmp_path, (), False), Console(quiet=True)).pairs == ()


def test_any_size_of_photograph_is_compared(parts: Path) -> None:
    draw = np.random.default_rng(0)
    for name, shape in (("low", (32, 9000)), ("narrow", (9000, 32)), ("tiny", (32, 32))):
        write(parts / "good", f"{name}.png", draw.integers(0, 256, shape, np.uint8))
    assert found_in(parts).pairs == ()


def test_a_photograph_that_cannot_be_read_is_named(parts: Path) -> None:
    dataset = dataset_from_folder(parts)
    dataset.photos[1].path.write_bytes(b"no image")
    with pytest.raises(ProcunitError, match=r"01\.png: not a readable image"):
        near_duplicates(dataset, Console(quiet=True))


def test_the_warning_shows_one_example_of_a_group() -> None:
    pairs = (Pair("a", "b", 0.9), Pair("a", "c", 0.8), Pair("d", "e", 0.3))
    text = NearDuplicates(pairs, (("a", "b", "c"), ("d", "e")), 7, 7).warning()
    assert "Similar are a and b (90% of the texture); d and e (30% of the texture)." in text


@pytest.fixture
def split_parts(parts: Path) -> Path:
    """Wrong part ids: the list has three ids for part 02 and two for 05; 07 has one id and two photographs."""
    named = {f"good/{part:02}.png": f"T{part:02}" for part in range(PARTS)}
    for file, part, part_id in (("02-1", 2, "T90"), ("02-2", 2, "T91"), ("05-1", 5, "T92"), ("07-1", 7, "T07")):
        write(parts / "crack", f"{file}.png", frame(surface(part), int(part_id[1:]), gain=0.9, x_px=4))
        named[f"crack/{file}.png"] = part_id
    with (parts / PARTS_CSV).open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "part_id"), *named.items()])
    return parts


def test_with_named_parts_only_pairs_of_different_parts_are_reported(split_parts: Path) -> None:
    found = found_in(split_parts)
    assert found.groups == (("crack/02-1.png", "crack/02-2.png", "good/02.png"), ("crack/05-1.png", "good/05.png"))
    text = found.warning()
    assert "5 of 16 photographs have 5 part ids, but look like 2 parts" in text
    assert "crack/05-1.png (part T92) and good/05.png (part T05)" in text
    assert "one part_id" in text
    assert SUGGESTED_FILE in text
    assert "07" not in text


def test_right_part_ids_give_no_warning(split_parts: Path) -> None:
    right = {"T90": "T02", "T91": "T02", "T92": "T05"}
    text = (split_parts / PARTS_CSV).read_text()
    for wrong, part_id in right.items():
        text = text.replace(wrong, part_id)
    (split_parts / PARTS_CSV).write_text(text)
    assert found_in(split_parts).warning() == ""


def test_joined_part_ids_are_proposed_and_can_be_copied_over(
    split_parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset, found = dataset_from_folder(split_parts), found_in(split_parts)
    run = tmp_path_factory.mktemp("run")
    joined = joined_parts(dataset, found)
    assert {part: new for part, new in joined.items() if part != new} == {"T90": "T02", "T91": "T02", "T92": "T05"}
    assert set(joined) == {photo.part_id for photo in dataset.photos}
    write_suggested(run, dataset, found)
    with (run / SUGGESTED_FILE).open(newline="") as stream:
        changed = {row["file"]: (row["part_id_was"], row["part_id"]) for row in csv.DictReader(stream)}
    assert changed["crack/02-1.png"] == ("T90", "T02")
    assert changed["crack/07-1.png"] == ("", "T07")
    shutil.copyfile(run / SUGGESTED_FILE, split_parts / PARTS_CSV)
    assert [photo.part_id for photo in dataset_from_folder(split_parts).photos] == [
        joined[photo.part_id] for photo in dataset.photos
    ]
    assert found_in(split_parts).pairs == ()


def test_a_proposal_can_replace_the_csv_of_a_dataset_with_masks(split_parts: Path) -> None:
    write(split_parts / "masks/crack", "05-1.png", np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8))
    dataset = dataset_from_folder(split_parts)
    write_suggested(split_parts, dataset, found_in(split_parts))
    of_csv = dataset_from_csv(split_parts / SUGGESTED_FILE)
    assert [(p.file, p.label, p.mask) for p in of_csv.photos] == [(p.file, p.label, p.mask) for p in dataset.photos]


def test_without_part_ids_the_first_file_of_a_group_names_the_part(parts: Path) -> None:
    write(parts / "crack", "again.png", frame(surface(3), 1))
    joined = joined_parts(dataset_from_folder(parts), found_in(parts))
    assert joined["good/03.png"] == joined["crack/again.png"] == "crack/again.png"
