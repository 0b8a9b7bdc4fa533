"""Lines of a CSV file that lists photographs: `parts.csv` beside class folders, or a whole dataset.

The file is UTF-8 with comma-separated cells; the first line names the columns, and unknown columns are ignored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from edge.errors import ProcunitError
from edge.system.csv_file import CsvRow, table_from_csv

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
    table = table_from_csv(path, needed=needed, optional=(FILE, LABEL, PART_ID, MASK), aliases={DEFECT_TYPE: LABEL})
    filled = {*needed, PART_ID} if PART_ID in table.columns else {*needed}
    rows = [_photo_row(row, path, filled) for row in table.rows]
    lines: dict[str, int] = {}
    for row in rows:
        if (first := lines.setdefault(row.file, row.line)) != row.line:
            raise ProcunitError(
                f"{row.file} is already on line {first}", where=f"{path}:{row.line}", remedy="Remove one of the lines"
            )
    return rows


def _photo_row(row: CsvRow, path: Path, filled: Collection[str]) -> PhotoRow:
    values = {name: cell.strip() or None for name, cell in row.cells.items()}
    for name in (FILE, LABEL, PART_ID):
        if name in filled and values.get(name) is None:
            raise ProcunitError(f"{name} is empty", where=row.where, remedy="Fill the cell or remove the line")
    mask = values.get(MASK)
    return PhotoRow(
        row.line,
        _inside(str(values[FILE]), path, row.where),
        values.get(LABEL),
        values.get(PART_ID),
        None if mask is None else _inside(mask, path, row.where),
    )


def _inside(name: str, path: Path, where: str) -> str:
    """A path relative to the CSV's folder, normalized."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or PureWindowsPath(name).is_absolute() or ".." in pure.parts:
        raise ProcunitError(
            f"{name} is not a path within the folder of {path.name}",
            where=where,
            remedy=f"Give the path relative to {path.parent}, without `..`; move files from outside into that folder",
        )
    return pure.as_posix()
