"""Labels from a CSV file: what is accepted, and the error messages for what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ProcunitError
from edge.frames.labels import FrameLabel, known_label, labels_from_csv


def test_labels_by_part_or_by_result_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufeffpart_id,found_by,label\np 1,customer,scratch\np 2,,good\np 1,again,scratch\n")
    assert labels_from_csv(path) == (FrameLabel("p 1", None, "scratch"), FrameLabel("p 2", None, "good"))
    path.write_text("label,result_id\ndent,abc-7\n")
    assert labels_from_csv(path) == (FrameLabel(None, "abc-7", "dent"),)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "needs the column label"),
        ("part_id,result_id,label\n", 1, "needs"),
        ("part_id,verdict\n1,good\n", 1, "needs"),
        ("verdict,label\n1,good\n", 1, "needs one of the columns part_id and result_id"),
        ("part_id,label\n1,good\n,good\n", 3, "column part_id is empty"),
        ("part_id,label\n1\n", 2, "column label is empty"),
        ("part_id,label\n1,../x\n", 2, "column label: '../x' is no label"),
        ("part_id,label\n1,masks\n", 2, "column label: 'masks' is no label"),
        ("part_id,label\n1,good\n2,dent\n1,dent\n", 4, "column label: 1 is 'dent' here and 'good' in line 2"),
        ('part_id,label\n1,"good\n', 2, "cannot be read"),
    ],
)
def test_a_faulty_file_is_refused_with_file_line_column_and_remedy(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ProcunitError) as caught:
        labels_from_csv(path)
    assert problem in caught.value.what
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.remedy


def test_a_missing_file_or_one_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match="cannot be read"):
        labels_from_csv(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"part_id,label\n\xff\xfe,good\n")
    with pytest.raises(ProcunitError, match=r"x\.csv:2: cannot be read"):
        labels_from_csv(tmp_path / "x.csv")


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: f"part_id,label\n{t}".encode())))
def test_any_file_gives_labels_or_an_error_for_people(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_bytes(content)
    try:
        labels = labels_from_csv(path)
    except ProcunitError:
        return
    assert all(label.part_id and label.label for label in labels) or b"result_id" in content


@pytest.mark.parametrize("label", ["good", "scratch", "dent"])
def test_good_and_the_bundles_types_are_known(label: str) -> None:
    assert known_label(label, ("scratch", "dent"), new_type=False) == label


@pytest.mark.parametrize(
    ("label", "meant"),
    [("scrach", "scratch"), ("SCRATCH", "scratch"), ("scratches", "scratch"), ("goood", "good"), ("dents", "dent")],
)
def test_a_misspelt_type_is_asked_about(label: str, meant: str) -> None:
    with pytest.raises(ProcunitError, match=f"did you mean '{meant}'"):
        known_label(label, ("scratch", "dent"), new_type=False)


def test_a_new_type_is_taken_if_it_is_called_one_and_is_not_a_known_one_written_differently() -> None:
    with pytest.raises(ProcunitError, match=r"no defect type of the bundle \(it has scratch, dent\).*newType"):
        known_label("porosity", ("scratch", "dent"), new_type=False)
    assert known_label("porosity", ("scratch", "dent"), new_type=True) == "porosity"
    assert known_label("scrach", ("scratch", "dent"), new_type=True) == "scrach"
    for same in ("Good", "go.od", "DENT", "scratch ", "den-t"):
        with pytest.raises(ProcunitError, match="Write '"):
            known_label(same, ("scratch", "dent"), new_type=True)
    with pytest.raises(ProcunitError, match="is no label"):
        known_label("../etc", (), new_type=True)
