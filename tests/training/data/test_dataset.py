"""Labelled folders: reading valid ones, and every kind of error."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import ProcunitError
from edge.image_file import read_image
from training.data.dataset import dataset_from_folder, read_mask


def photo(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 50), 90, np.uint8) if pixels is None else pixels)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photo(tmp_path / "good/a.png")
    photo(tmp_path / "good/b.JPG")
    photo(tmp_path / "scratch/c.png")
    photo(tmp_path / "masks/scratch/c.png")
    return tmp_path


def test_a_folder_without_parts_csv_counts_photographs_as_parts(folder: Path) -> None:
    (folder / "good/notes.txt").write_text("not a photograph")
    dataset = dataset_from_folder(folder)
    assert [p.file for p in dataset.photos] == ["good/a.png", "good/b.JPG", "scratch/c.png"]
    assert dataset.types == ("scratch",)
    assert not dataset.has_parts
    assert dataset.photos[2].mask == folder / "masks/scratch/c.png"
    assert dataset.photos[0].mask is None
    assert dataset.photos[0].part_id == "good/a.png"


def test_parts_csv_names_the_parts_and_changes_the_hash(folder: Path) -> None:
    before = dataset_from_folder(folder).sha256
    (folder / "parts.csv").write_text("file,part_id\ngood/a.png,T1\ngood/b.JPG,T1\nscratch/c.png,T2\n")
    dataset = dataset_from_folder(folder)
    assert [p.part_id for p in dataset.photos] == ["T1", "T1", "T2"]
    assert dataset.has_parts
    assert dataset.sha256 != before


@pytest.mark.parametrize(
    ("csv_text", "message"),
    [
        ("name,part\nx,y\n", "columns file and part_id"),
        ("file,part_id\ngood/a.png,\n", r"parts\.csv:2: part_id is empty"),
        ("file,part_id\ngood/zzz.png,T1\n", r"parts\.csv:2: names good/zzz\.png, which does not exist"),
        ("file,part_id\ngood/a.png,T1\ngood/a.png,T2\n", r"parts\.csv:3: good/a\.png is already on line 2"),
        ("file,part_id,label\ngood/a.png,T1,\nscratch/c.png,T1,good\n", "labelled 'good', but lies in the folder 'scr"),
        (
            "file,part_id,defect_type\ngood/a.png,T1,dent\n",
            r"parts\.csv:2: good/a\.png is labelled 'dent', but lies in",
        ),
        ("file,part_id\n\udcff\n", "cannot be read"),
    ],
)
def test_a_parts_csv_that_does_not_fit_is_refused(folder: Path, csv_text: str, message: str) -> None:
    (folder / "parts.csv").write_bytes(csv_text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ProcunitError, match=message) as caught:
        dataset_from_folder(folder)
    assert "parts.csv" in str(caught.value)


def test_a_label_that_contradicts_the_folder_says_what_to_do(folder: Path) -> None:
    (folder / "parts.csv").write_text("file,part_id,label\ngood/a.png,T1,scratch\n")
    with pytest.raises(ProcunitError, match="Move the photograph to scratch/, or write good in this line"):
        dataset_from_folder(folder)


def test_a_parts_csv_of_other_columns_and_of_some_photographs_is_read(folder: Path) -> None:
    text = "exposure, file, label, part_id\n3, good/a.png, good, T1\n\n4, ./good/b.JPG, , T1\n"
    (folder / "parts.csv").write_text(text)
    assert [p.part_id for p in dataset_from_folder(folder).photos] == ["T1", "T1", "scratch/c.png"]


def test_a_parts_csv_without_lines_names_no_part(folder: Path) -> None:
    (folder / "parts.csv").write_text("file,part_id\n")
    assert not dataset_from_folder(folder).has_parts


def test_the_pattern_finds_parts_in_the_files_names_across_labels(folder: Path) -> None:
    for file in ("good/a.png", "good/b.JPG", "scratch/c.png"):
        (folder / file).unlink()
    for file in ("good/T01_1.png", "good/T02_1.png", "scratch/T01_2.png"):
        photo(folder / file)
    (folder / "dataset.yaml").write_text("part_id_pattern: '^(?P<part>T[0-9]+)_'\n")
    dataset = dataset_from_folder(folder)
    assert [p.part_id for p in dataset.photos] == ["T01", "T02", "T01"]
    assert dataset.has_parts


@pytest.mark.parametrize("pattern", ["^(?P<part>T[0-9]+)", "^(?P<part>[0-9]*)"], ids=["none", "an empty one"])
def test_a_photograph_without_a_part_in_its_name_is_named(folder: Path, pattern: str) -> None:
    (folder / "dataset.yaml").write_text(f"part_id_pattern: '{pattern}'\n")
    with pytest.raises(ProcunitError, match=r"finds no part in the name of good/a\.png") as caught:
        dataset_from_folder(folder)
    assert caught.value.where == str(folder / "dataset.yaml")


def test_parts_named_in_two_ways_are_refused(folder: Path) -> None:
    (folder / "parts.csv").write_text("file,part_id\ngood/a.png,T1\n")
    (folder / "dataset.yaml").write_text("part_id_pattern: '(?P<part>.)'\n")
    with pytest.raises(ProcunitError, match=r"parts\.csv names the parts, too\. Keep one of the two"):
        dataset_from_folder(folder)
    (folder / "dataset.yaml").write_text("augmentation: {scratch: {direction: isotropic}}\n")
    assert dataset_from_folder(folder).has_parts, "a dataset.yaml without part_id_pattern"


def test_labels_that_differ_only_in_case_are_refused(folder: Path) -> None:
    photo(folder / "Good/d.png")
    with pytest.raises(ProcunitError, match="'good' and 'Good' differ only in upper and lower case"):
        dataset_from_folder(folder)


def test_an_empty_class_folder_is_named(folder: Path) -> None:
    (folder / "dent").mkdir()
    with pytest.raises(ProcunitError, match="dent"):
        dataset_from_folder(folder)


def test_a_folder_without_classes_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="no class folder"):
        dataset_from_folder(tmp_path)
    with pytest.raises(ProcunitError, match="no such folder"):
        dataset_from_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ProcunitError, match=r"x\.png"):
        read_image(path)


def test_a_truncated_png_is_no_image(tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png", np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ProcunitError, match="not a readable image"):
        read_image(path)


def test_a_missing_and_a_tiny_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="cannot be read"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ProcunitError, match="31 x 40 px"):
        read_image(photo(tmp_path / "x.png", np.zeros((40, 31), np.uint8)))


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (40, 50, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_colour_alpha_and_sixteen_bits_are_read_as_stored(
    tmp_path: Path, shape: tuple[int, ...], dtype: type
) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    np.testing.assert_array_equal(read_image(photo(tmp_path / "x.png", pixels)), pixels)


def test_a_mask_is_scaled_where_its_shape_fits_and_refused_where_not(tmp_path: Path) -> None:
    mask = np.zeros((20, 25), np.uint8)
    mask[5:10, 5:10] = 255
    path = photo(tmp_path / "m.png", mask)
    assert read_mask(path, 20, 25).sum() == mask.sum()
    assert read_mask(path, 40, 50).sum() == 4 * mask.sum()
    with pytest.raises(ProcunitError, match=r"25 x 20 px.*80 x 40 px"):
        read_mask(path, 40, 80)
    path.write_bytes(b"")
    with pytest.raises(ProcunitError, match="mask"):
        read_mask(path, 20, 25)
    with pytest.raises(ProcunitError, match="not a readable mask"):
        read_mask(tmp_path / "nowhere.png", 20, 25)
