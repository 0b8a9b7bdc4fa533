"""CSV files written by people: UTF-8 with or without a byte order mark, comma-separated, column names in line 1."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.errors import ProcunitError
from edge.system.files import bytes_from_file

MAX_CSV_BYTES = 64 << 20
_SAVE_AS_CSV = "Save it as CSV in UTF-8"


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row: its line number, its `FILE:LINE` for error messages, and a cell for each column ('' if missing)."""

    line: int
    where: str
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class CsvTable:
    """The column names and all rows that are not blank."""

    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]


def table_from_csv(
    path: Path,
    *,
    needed: Collection[str],
    optional: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> CsvTable:
    """Read a whole CSV file that has the columns `needed`; columns not named here are kept unchecked.

    `aliases` maps other spellings of a column to its name. Spaces around column names and before cells are dropped.

    Raises:
        ProcunitError: it cannot be read, is larger than `MAX_CSV_BYTES`, lacks a column or has one twice, or a row has
            more cells than there are columns; the text names file and line.
    """
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        columns = _checked_columns(header, f"{path}:1", needed, optional, aliases or {})
        rows = [_row(cells, columns, path, lines.line_num) for cells in lines if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise _unreadable(str(error), f"{path}:{max(lines.line_num, 1)}") from error
    return CsvTable(columns, tuple(rows))


def _text(path: Path) -> str:
    try:
        data = bytes_from_file(path, MAX_CSV_BYTES)
    except ProcunitError as error:
        remedy = "Split the file" if error.what.startswith("larger") else _SAVE_AS_CSV
        raise ProcunitError(error.what, where=error.where, remedy=remedy) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(f"byte 0x{data[error.start]:02x} is not UTF-8 text", f"{path}:{line}") from error


def _checked_columns(
    header: list[str], where: str, needed: Collection[str], optional: Collection[str], aliases: Mapping[str, str]
) -> tuple[str, ...]:
    columns = tuple(aliases.get(name, name) for name in header)
    for name in (*needed, *optional):
        if columns.count(name) > 1:
            also = [alias for alias, meant in aliases.items() if meant == name]
            named = f"{name} (or {', '.join(also)})" if also else name
            raise ProcunitError(f"the column {named} appears twice", where=where, remedy="Keep one of them")
    if not set(needed) <= set(columns):
        plural = "s" if len(needed) > 1 else ""
        others = ", ".join(name for name in optional if name not in needed)
        further = f"; {others} may follow" if others else ""
        raise ProcunitError(
            f"has the columns {', '.join(header) or '(none)'}, but needs the column{plural} {' and '.join(needed)}",
            where=where,
            remedy=f"Name the columns in the first line, separated by commas{further}",
        )
    return columns


def _row(cells: list[str], columns: tuple[str, ...], path: Path, line: int) -> CsvRow:
    where = f"{path}:{line}"
    if len(cells) > len(columns):
        raise ProcunitError(
            f"has {len(cells)} cells for {len(columns)} columns",
            where=where,
            remedy="Put a cell that contains a comma in double quotes",
        )
    return CsvRow(line, where, dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False)))


def _unreadable(reason: str, where: str) -> ProcunitError:
    return ProcunitError(f"cannot be read: {reason}", where=where, remedy=_SAVE_AS_CSV)
