"""A dataset as one CSV file: the same photographs as in their folder, and every kind of invalid line."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ProcunitError
from training.data.dataset import dataset_from_csv, dataset_from_folder, dataset_from_path, read_mask
from training.data.photo_list import FILE, LABEL, PART_ID, photo_rows_from_csv

FILES = ("good/a.png", "good/b.png", "scratch/c.png", "scratch/d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, file in enumerate((*FILES, "masks/scratch/c.png")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / file), np.full((40, 50), number, np.uint8))
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    path = folder / "photos.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_is_the_dataset_of_its_folder(folder: Path) -> None:
    rows = [(file, file.split("/")[0], file[-5]) for file in FILES]
    with (folder / "parts.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "part_id"), *rows])
    of_folder = dataset_from_path(folder)
    masks = ["", "", "masks/scratch/c.png", ""]
    with (folder / "photos.csv").open("w", newline="") as stream:
        lines = [(mask, *row) for row, mask in zip(rows, masks, strict=True)]
        csv.writer(stream).writerows([("mask", "file", "label", "part_id"), *reversed(lines)])
    of_csv = dataset_from_path(folder / "photos.csv")
    assert of_csv == of_folder
    assert of_csv.sha256 == of_folder.sha256
    assert of_csv.root == folder


def test_other_columns_spaces_a_byte_order_mark_and_quotes_do_not_matter(folder: Path) -> None:
    header, first = "\ufeffexposure, file ,defect_type,part_id", "3, ./good/a.png ,good,T1"
    text = "\r\n".join([header, first, "", '4,"scratch/c.png",scratch,"T,2"', ""])
    dataset = dataset_from_csv(listed(folder, text))
    assert [(p.file, p.label, p.part_id, p.mask) for p in dataset.photos] == [
        ("good/a.png", "good", "T1", None),
        ("scratch/c.png", "scratch", "T,2", None),
    ]
    assert dataset.has_parts


def test_the_labels_are_the_csv_s_wherever_the_photographs_lie(folder: Path) -> None:
    dataset = dataset_from_csv(listed(folder, "file,label\ngood/a.png,dent\nscratch/c.png,good\n"))
    assert [p.label for p in dataset.photos] == ["dent", "good"]
    assert [p.part_id for p in dataset.photos] == ["good/a.png", "scratch/c.png"]
    assert not dataset.has_parts


def test_the_pattern_names_parts_where_the_csv_does_not(folder: Path) -> None:
    (folder / "dataset.yaml").write_text("part_id_pattern: '^(?P<part>[a-c])'\n")
    dataset = dataset_from_csv(listed(folder, "file,label\ngood/a.png,good\nscratch/c.png,scratch\n"))
    assert [p.part_id for p in dataset.photos] == ["a", "c"]
    assert dataset.has_parts
    with pytest.raises(ProcunitError, match=r"finds no part in the name of scratch/d\.png"):
        dataset_from_csv(listed(folder, "file,label\nscratch/d.png,scratch\n"))
    with pytest.raises(ProcunitError, match=r"photos\.csv names the parts, too"):
        dataset_from_csv(listed(folder, "file,label,part_id\ngood/a.png,good,T1\n"))


def test_a_mask_of_another_shape_is_refused_when_it_is_read(folder: Path) -> None:
    cv2.imwrite(str(folder / "m.png"), np.zeros((40, 40), np.uint8))
    photo = dataset_from_csv(listed(folder, "file,label,mask\ngood/a.png,dent,m.png\n")).photos[0]
    assert photo.mask == folder / "m.png"
    with pytest.raises(ProcunitError, match=r"m\.png: the mask is 40 x 40 px, its photograph 50 x 40 px"):
        read_mask(photo.mask, 40, 50)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "needs the columns file and label"),
        ("file;label\ngood/a.png;good\n", 1, "separated by commas"),
        ("file,part_id\ngood/a.png,T1\n", 1, "needs the columns file and label"),
        ("file,label,defect_type\ngood/a.png,good,good\n", 1, r"label \(or defect_type\) appears twice"),
        ("file,label,file\ngood/a.png,good,good/a.png\n", 1, "the column file appears twice"),
        ("file,label\ngood/a.png,good\n,good\n", 3, "file is empty"),
        ("file,label\ngood/a.png, \n", 2, "label is empty"),
        ("file,label,part_id\ngood/a.png,good,T1\ngood/b.png,good,\n", 3, "part_id is empty"),
        ("file,label,part_id\ngood/a.png,good\n", 2, "part_id is empty"),
        ("file,label\ngood/a.png,good,T1\n", 2, "3 cells for 2 columns"),
        ("file,label\ngood/a.png,good\ngood/./a.png,good\n", 3, "is already on line 2"),
        ("file,label\n/etc/passwd,good\n", 2, "not a path within the folder"),
        ("file,label\nC:/photos/a.png,good\n", 2, "not a path within the folder"),
        ("file,label\ngood/../../a.png,good\n", 2, "not a path within the folder"),
        ("file,label,mask\nscratch/c.png,scratch,../m.png\n", 2, r"\.\./m\.png is not a path within the folder"),
        ("file,label,mask\nscratch/c.png,scratch,masks/d.png\n", 2, r"names masks/d\.png, which does not exist"),
        ("file,label\ngood/a.png,good\ngood/zzz.png,good\n", 3, r"names good/zzz\.png, which does not exist"),
        ("file,label\ngood,good\n", 2, "names good, which does not exist"),
        (f"file,label\n{'x' * 5000},good\n", 2, "which does not exist"),
        ("file,label\n", None, "lists no photograph"),
        ('file,label\n"good/a.png,good\n', 2, "cannot be read: unexpected end of data"),
        (
            "file,label\ngood/a.png,good\ngood/b.png,GOOD\n",
            None,
            "'good' and 'GOOD' differ only in upper and lower case",
        ),
    ],
)
def test_a_line_that_does_not_fit_is_refused(folder: Path, text: str, line: int | None, message: str) -> None:
    path = listed(folder, text)
    with pytest.raises(ProcunitError, match=message) as caught:
        dataset_from_path(path)
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.remedy


def test_binary_and_missing_files_are_refused(folder: Path) -> None:
    with pytest.raises(ProcunitError, match=r"a\.png:1: cannot be read"):
        dataset_from_path(folder / "good/a.png")
    with pytest.raises(ProcunitError, match=r"no such folder.*or a CSV file"):
        dataset_from_path(folder / "nowhere.csv")
    with pytest.raises(ProcunitError, match="cannot be read: No such file"):
        photo_rows_from_csv(folder / "nowhere.csv", (FILE,))


CELLS = st.one_of(
    st.sampled_from(["good/a.png", "a.png", "../a.png", "/a.png", "good", "masks", '"', "T1", "", " ", "\0", "C:a"]),
    st.text(max_size=8),
)
LINES = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=5).map("\n".join)
HEADERS = st.lists(
    st.sampled_from(["file", "label", "defect_type", "part_id", "mask", "exposure"]), min_size=1, max_size=5
).map(",".join)
TEXTS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.tuples(HEADERS, LINES).map("\n".join).map(str.encode),
)


@given(content=TEXTS)
def test_any_content_is_read_or_gives_a_named_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "photos.csv"
        (folder / "good").mkdir()
        (folder / "good/a.png").write_bytes(b"an image")
        path.write_bytes(content)
        try:
            dataset = dataset_from_path(path)
        except ProcunitError as error:
            assert str(error).startswith(str(path))  # noqa: PT017  (most texts are refused, and a few are not)
        else:
            assert {photo.path for photo in dataset.photos} <= {folder / "good/a.png", path}


@given(content=TEXTS)
def test_every_line_that_is_read_stays_within_the_folder(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "parts.csv"
        path.write_bytes(content)
        try:
            rows = photo_rows_from_csv(path, (FILE, PART_ID))
        except ProcunitError:
            return
    assert len({row.file for row in rows}) == len(rows)
    for row in rows:
        assert row.part_id
        for file in (row.file, row.mask or row.file):
            assert not PurePosixPath(file).is_absolute()
            assert ".." not in PurePosixPath(file).parts


CLEAN = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(
    names=st.lists(CLEAN.map(lambda name: f"photo-{name.replace('/', '_')}"), min_size=1, max_size=5, unique=True),
    label=CLEAN,
)
def test_what_is_written_is_what_is_read(names: list[str], label: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photos.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("label", "file", "part_id"), *((label, name, f"T{name}") for name in names)])
        rows = photo_rows_from_csv(path, (FILE, LABEL))
    assert [(row.file, row.label, row.part_id) for row in rows] == [(name, label, f"T{name}") for name in names]
    assert [row.line for row in rows] == list(range(2, len(names) + 2))


def test_a_folder_and_a_csv_in_it_may_both_be_named(folder: Path) -> None:
    (folder / "parts.csv").write_text(
        "file,defect_type,part_id\n" + "".join(f"{f},{f.split('/')[0]},T1\n" for f in FILES)
    )
    assert [p.file for p in dataset_from_path(folder).photos] == [
        p.file for p in dataset_from_path(folder / "parts.csv").photos
    ]
    assert dataset_from_folder(folder).has_parts
