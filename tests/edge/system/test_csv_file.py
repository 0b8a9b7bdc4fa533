"""The one CSV reader: accepted spellings, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

import edge.system.csv_file
from edge.errors import ProcunitError
from edge.system.csv_file import table_from_csv


def test_byte_order_mark_spaces_quotes_blank_rows_and_missing_cells_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('\ufeffb, a ,kind\r\n1, "x, y",k\r\n , ,\r\n\r\n2\r\n')
    table = table_from_csv(path, needed=("a",), aliases={"kind": "type"})
    assert table.columns == ("b", "a", "type")
    assert [row.cells for row in table.rows] == [
        {"b": "1", "a": "x, y", "type": "k"},
        {"b": "2", "a": "", "type": ""},
    ]
    assert [(row.line, row.where) for row in table.rows] == [(2, f"{path}:2"), (5, f"{path}:5")]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "has the columns (none), but needs the columns a and b"),
        (b"a;b\n1;2\n", 1, "has the columns a;b, but needs the columns a and b"),
        (b"a,b,a\n", 1, "the column a appears twice"),
        (b"a,b,c,type\n", 1, "the column c (or type) appears twice"),
        (b"a,b\n1,2,3\n", 2, "has 3 cells for 2 columns"),
        (b'a,b\n1,2\n1,"2\n', 3, "cannot be read: unexpected end of data"),
        (b"a,b\n1,2\n\xe4,2\n", 3, "cannot be read: byte 0xe4 is not UTF-8 text"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line_and_a_remedy(
    tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(ProcunitError) as caught:
        table_from_csv(path, needed=("a", "b"), optional=("c",), aliases={"type": "c"})
    assert (caught.value.where, caught.value.what) == (f"{path}:{line}", message)
    assert caught.value.remedy


def test_a_file_beyond_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.system.csv_file, "MAX_CSV_BYTES", 8)
    path = tmp_path / "x.csv"
    path.write_text("a\n123456")
    assert len(table_from_csv(path, needed=("a",)).rows) == 1
    path.write_text("a\n1234567")
    with pytest.raises(ProcunitError, match="larger than"):
        table_from_csv(path, needed=("a",))
