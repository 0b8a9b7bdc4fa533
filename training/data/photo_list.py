"""Lines of a CSV file that lists photographs: `parts.csv` beside class folders, or a whole dataset.

The file is UTF-8 with comma-separated cells; the first line names the columns, and unknown columns are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from edge.errors import ProcunitError

FILE, LABEL, PART_ID, MASK = "file", "label", "part_id", "mask"
DEFECT_TYPE = "defect_type"
"""Another name of the column `label`."""


@dataclass(frozen=True, slots=True)
class PhotoRow:
    """One line; `file` and `mask` are relative to the CSV's folder, None is an empty or absent cell."""

    line: int
    file: str
    label: str | None
    part_id: str | None
    mask: str | None


def photo_rows_from_csv(path: Path, needed: Collection[str]) -> list[PhotoRow]:
    """All lines of a file that must have the columns `needed`; does not check whether the photographs exist.

    Raises:
        ProcunitError: the file cannot be read, or a line is not usable; the message names file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            columns = _columns(next(reader, []), path, needed)
            blank = dict.fromkeys(columns, "")
            rows = [
                _row(blank | dict(zip(columns, cells, strict=False)), path, reader.line_num, needed)
                for cells in reader
                if _is_row(cells, len(columns), path, reader.line_num)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ProcunitError(f"cannot be read: {what}", where=str(path), remedy="Save it as CSV in UTF-8") from error
    lines: dict[str, int] = {}
    for row in rows:
        if (first := lines.setdefault(row.file, row.line)) != row.line:
            raise ProcunitError(
                f"{row.file} is already on line {first}", where=f"{path}:{row.line}", remedy="Remove one of the lines"
            )
    return rows


def _columns(header: list[str], path: Path, needed: Collection[str]) -> list[str]:
    """The columns' names; `defect_type` becomes `label`."""
    columns = [LABEL if name.strip() == DEFECT_TYPE else name.strip() for name in header]
    for name in (FILE, LABEL, PART_ID, MASK):
        if columns.count(name) > 1:
            also = f" (or {DEFECT_TYPE})" if name == LABEL else ""
            raise ProcunitError(f"the column {name}{also} appears twice", where=f"{path}:1", remedy="Keep one of them")
    if not set(needed) <= set(columns):
        raise ProcunitError(
            f"the columns {' and '.join(needed)} are needed",
            where=f"{path}:1",
            remedy="Name the columns in the first line, separated by commas",
        )
    return columns


def _is_row(cells: list[str], columns: int, path: Path, line: int) -> bool:
    """Whether a line has a non-empty cell; one with more cells than columns is refused."""
    if len(cells) > columns:
        raise ProcunitError(
            f"has {len(cells)} cells for {columns} columns",
            where=f"{path}:{line}",
            remedy="Put a cell that holds a comma in double quotes",
        )
    return any(cell.strip() for cell in cells)


def _row(cells: dict[str, str], path: Path, line: int, needed: Collection[str]) -> PhotoRow:
    values = {name: cell.strip() or None for name, cell in cells.items()}
    filled = {*needed, PART_ID} if PART_ID in cells else needed
    for name in (FILE, LABEL, PART_ID):
        if name in filled and values.get(name) is None:
            raise ProcunitError(f"{name} is empty", where=f"{path}:{line}", remedy="Fill the cell or remove the line")
    mask = values.get(MASK)
    return PhotoRow(
        line,
        _inside(str(values[FILE]), path, line),
        values.get(LABEL),
        values.get(PART_ID),
        None if mask is None else _inside(mask, path, line),
    )


def _inside(name: str, path: Path, line: int) -> str:
    """A path relative to the CSV's folder, normalized."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or PureWindowsPath(name).is_absolute() or ".." in pure.parts:
        raise ProcunitError(
            f"{name} is not a path within the folder of {path.name}",
            where=f"{path}:{line}",
            remedy=f"Give the path relative to {path.parent}, without `..`; move files from outside into that folder",
        )
    return pure.as_posix()
