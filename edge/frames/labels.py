"""Labels from outside: what a downstream station, a customer or a second look found on parts, from a CSV file."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from edge.bundle.manifest import MASKS, NAME_PATTERN
from edge.errors import ProcunitError

MAX_CSV_BYTES = 16 << 20

_REMEDY = "The first line is part_id,label or result_id,label; a label is `good` or a defect type"


@dataclass(frozen=True, slots=True)
class FrameLabel:
    """What one part or one result really is: `good` or a defect type; one of the two ids is None."""

    part_id: str | None
    result_id: str | None
    label: str


def checked_label(label: str) -> str:
    """The label, if a class of the training can have that name.

    Raises:
        ProcunitError: it cannot.
    """
    if re.fullmatch(NAME_PATTERN, label) is None or label == MASKS:
        raise ProcunitError(
            f"{label[:80]!r} is no label", remedy="Use `good` or a defect type: letters, digits, space, _ . and -"
        )
    return label


def labels_from_csv(path: Path) -> tuple[FrameLabel, ...]:
    """The labels of a file with the columns `part_id` or `result_id`, and `label`; other columns are ignored.

    Raises:
        ProcunitError: the file, the line and the column that do not fit, and the remedy.
    """
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise ProcunitError(f"larger than {MAX_CSV_BYTES >> 20} MB", where=str(path), remedy="Split it")
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return _labels(csv.DictReader(stream, strict=True), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProcunitError(f"cannot be read: {error}", where=str(path), remedy="Save it as CSV in UTF-8") from error


def _labels(reader: csv.DictReader[str], path: Path) -> tuple[FrameLabel, ...]:
    columns = set(reader.fieldnames or ())
    keys = columns & {"part_id", "result_id"}
    if len(keys) != 1 or "label" not in columns:
        raise ProcunitError(
            "line 1: needs the column label and one of part_id and result_id", where=str(path), remedy=_REMEDY
        )
    key = keys.pop()
    labels: dict[str, tuple[int, str]] = {}
    for row in reader:
        line = reader.line_num
        for column in (key, "label"):
            if not row[column]:
                raise ProcunitError(f"line {line}, column {column}: is empty", where=str(path), remedy=_REMEDY)
        try:
            label = checked_label(row["label"])
        except ProcunitError as error:
            what = f"line {line}, column label: {error.what}"
            raise ProcunitError(what, where=str(path), remedy=error.remedy) from error
        first_line, known = labels.setdefault(row[key], (line, label))
        if known != label:
            raise ProcunitError(
                f"line {line}, column label: {row[key]} is {label!r} here and {known!r} in line {first_line}",
                where=str(path),
                remedy="Keep the line that is right",
            )
    by_part = key == "part_id"
    return tuple(FrameLabel(i if by_part else None, None if by_part else i, lab) for i, (_, lab) in labels.items())
