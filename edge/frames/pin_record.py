"""The JSON file beside a pinned frame: its record, its label, and who labelled it what before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.bundle.manifest import GOOD
from edge.frames.labels import Labeller, NeedsKeyError
from edge.system.files import write_whole

MAX_HISTORY = 50
"""Labels kept of one frame: the first one, and the newest."""
UNREADABLE = "(its record cannot be read)"
"""The label of a frame whose record is missing or damaged: not `good`, because it may have been a defect."""


class LabelEntry(BaseModel):
    """One label: `by` is what the sender stated, `signed_by` the key that signed the command, None for an unsigned one.

    `labelled_at_utc` is None for a label that an earlier version stored.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    by: str | None = None
    signed_by: str | None = None
    labelled_at_utc: str | None = None

    @property
    def text(self) -> str:
        """The label, who gave it and when, in words."""
        who = self.by or ("somebody" if self.signed_by is None else "the holder of the key")
        how = "unsigned" if self.signed_by is None else f"signed with {self.signed_by}"
        if self.labelled_at_utc is None:
            return f"{self.label} (not recorded by whom)"
        return f"{self.label} by {who} on {self.labelled_at_utc} ({how})"


class PinRecord(BaseModel):
    """The keys that are used of the file; `label_history` ends with the present label."""

    model_config = ConfigDict(frozen=True)

    result_id: str
    part_id: str | None = None
    label: str
    label_history: tuple[LabelEntry, ...] = ()

    @property
    def history(self) -> tuple[LabelEntry, ...]:
        """All labels, oldest first; one entry for a file of an earlier version."""
        return self.label_history or (LabelEntry(label=self.label),)


def check_key(entry: LabelEntry, labelled: Iterable[tuple[str, str]]) -> None:
    """Check a label against those that the results of the part have: (result id, label).

    Raises:
        NeedsKeyError: it is an unsigned `good`, and one of them is labelled as a defect.
    """
    if entry.signed_by is not None:
        return
    for result_id, label in labelled:
        if entry.label == GOOD and label != GOOD:
            raise NeedsKeyError(
                f"result {result_id} is labelled {label!r}: only a signed label can call it, or its part, good",
                remedy="Sign it with a key that this device trusts: `procunit label --key`, "
                "or `procunit command sign label`",
            )


def entry_from_labeller(label: str, labeller: Labeller, now_utc: str) -> LabelEntry:
    """The entry of a label given now."""
    return LabelEntry(label=label, by=labeller.by, signed_by=labeller.signed_by, labelled_at_utc=now_utc)


def label_of_pinned(image: Path) -> str:
    """The present label of a pinned frame, or `UNREADABLE`."""
    return labels_of_pinned(image)[-1].label


def labels_of_pinned(image: Path) -> tuple[LabelEntry, ...]:
    """All labels of a pinned frame, oldest first; one entry `UNREADABLE` if its record cannot be read."""
    try:
        return PinRecord.model_validate_json(image.with_suffix(".json").read_bytes()).history
    except (OSError, ValidationError):
        return (LabelEntry(label=UNREADABLE),)


def write_pin_record(
    image: Path, result_id: str, record: Mapping[str, object], entries: tuple[LabelEntry, ...]
) -> None:
    """Write the file beside `image`, after the labels that it has already; a repeated label is not written again.

    Raises:
        OSError: it cannot be written.
    """
    history = [*labels_of_pinned(image)] if image.exists() else []
    for entry in entries:
        if not history or (history[-1].label, history[-1].signed_by) != (entry.label, entry.signed_by):
            history.append(entry)
    if len(history) > MAX_HISTORY:
        history = [history[0], *history[1 - MAX_HISTORY :]]
    beside = {
        "result_id": result_id,
        **record,
        "label": history[-1].label,
        "label_history": [entry.model_dump() for entry in history],
    }
    write_whole(image.with_suffix(".json"), json.dumps(beside, indent=1).encode())
