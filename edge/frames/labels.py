"""Labels: what a downstream station, a customer or a re-inspection found on parts; from commands, or a CSV file."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from edge.bundle.manifest import GOOD, MASKS, NAME_PATTERN
from edge.errors import ProcunitError
from edge.system.csv_file import table_from_csv

_ID_COLUMNS = ("part_id", "result_id")
_REMEDY = "The first line is part_id,label or result_id,label; a label is `good` or a defect type"


@dataclass(frozen=True, slots=True)
class FrameLabel:
    """The true class of one part or one result, `good` or a defect type; exactly one of the two ids is None."""

    part_id: str | None
    result_id: str | None
    label: str


@dataclass(frozen=True, slots=True)
class Labeller:
    """Who gives a label: the name that the sender states, and the key that signed the command, if one did."""

    by: str | None = None
    signed_by: str | None = None


NOBODY = Labeller()
"""Nobody who is known, without a key."""


class NeedsKeyError(ProcunitError):
    """The label has to be given by a signed command."""


def known_label(label: str, types: Collection[str], *, new_type: bool) -> str:
    """Return the label if it is `good` or one of the bundle's types, or a new type that is meant to be one.

    Raises:
        ProcunitError: it is no label, or perhaps a misspelt one; nothing has been stored.
    """
    known = (GOOD, *types)
    if checked_label(label) in known:
        return label
    same = [name for name in known if _letters(name) == _letters(label)]
    if new_type and not same:
        return label
    near = same or get_close_matches(label.casefold(), [name.casefold() for name in known], n=1, cutoff=0.6)
    meant = next((name for name in known if near and name.casefold() == near[0].casefold()), None)
    raise ProcunitError(
        f"{label!r} is not `good` and no defect type of the bundle"
        + (f": did you mean {meant!r}?" if meant else f" (it has {', '.join(types) or 'none'})"),
        remedy=f"Write {meant!r}"
        if same
        else "Correct it; if it is a new defect type, say so: newType in the command, --new-type of `procunit label`",
    )


def checked_label(label: str) -> str:
    """Return the label if it may name a class of the training data.

    Raises:
        ProcunitError: it may not.
    """
    if re.fullmatch(NAME_PATTERN, label) is None or label == MASKS:
        raise ProcunitError(
            f"{label[:80]!r} is no label", remedy="Use `good` or a defect type: letters, digits, space, _ . and -"
        )
    return label


def labels_from_csv(path: Path) -> tuple[FrameLabel, ...]:
    """The labels of a file with the columns `part_id` or `result_id`, and `label`; other columns are ignored.

    Raises:
        ProcunitError: the file cannot be read, or a row does not fit; the text names file, line, column and remedy.
    """
    table = table_from_csv(path, needed=("label",), optional=_ID_COLUMNS)
    keys = [column for column in _ID_COLUMNS if column in table.columns]
    if len(keys) != 1:
        raise ProcunitError("needs one of the columns part_id and result_id", where=f"{path}:1", remedy=_REMEDY)
    (key,) = keys
    labels: dict[str, tuple[int, str]] = {}
    for row in table.rows:
        for column in (key, "label"):
            if not row.cells[column]:
                raise ProcunitError(f"column {column} is empty", where=row.where, remedy=_REMEDY)
        try:
            label = checked_label(row.cells["label"])
        except ProcunitError as error:
            raise ProcunitError(f"column label: {error.what}", where=row.where, remedy=error.remedy) from error
        item_id = row.cells[key]
        first_line, first_label = labels.setdefault(item_id, (row.line, label))
        if first_label != label:
            raise ProcunitError(
                f"column label: {item_id} is {label!r} here and {first_label!r} in line {first_line}",
                where=row.where,
                remedy="Keep the line that is right",
            )
    if key == "part_id":
        return tuple(FrameLabel(part_id, None, label) for part_id, (_, label) in labels.items())
    return tuple(FrameLabel(None, result_id, label) for result_id, (_, label) in labels.items())


def _letters(name: str) -> str:
    """A name without what people leave out or change by accident: case, spaces and signs."""
    return re.sub(r"[ _.-]", "", name).casefold()
