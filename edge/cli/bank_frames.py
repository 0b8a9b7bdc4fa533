"""The frames that `procunit bank add` is given: what they are called, how they are labelled, and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.bank.frames import PinnedFrame
from edge.bundle.manifest import GOOD
from edge.bundle.reader import Bundle, file_entry_from_path
from edge.contract.encoding import clean_text
from edge.errors import ProcunitError
from edge.frames.image import record_from_png
from edge.frames.pin_record import labels_of_pinned
from edge.messages import MAIN_VIEW
from edge.plain_text import plain


def frame_name(frame: PinnedFrame) -> str:
    """What people call a frame: its part, or its result."""
    return clean_text(f"part {frame.part_id}" if frame.part_id is not None else f"result {frame.result_id}")


def view_of_file(path: Path, pinned: tuple[PinnedFrame, ...]) -> str:
    """The view that a frame shows, from its record; `main` for a file without one, or of an earlier version."""
    of_pinned = next((frame.view for frame in pinned if frame.path.resolve() == path), None)
    if of_pinned is not None or not path.is_file():
        return of_pinned or MAIN_VIEW
    return plain(str(record_from_png(path).get("view", MAIN_VIEW)), 80)


def hash_of_good(path: Path, bundle: Bundle, pinned: tuple[PinnedFrame, ...]) -> str:
    """The sha256 of a frame's file.

    Raises:
        ProcunitError: the file does not exist, or the bundle or a label on this device calls the frame a defect.
    """
    if not path.is_file():
        raise ProcunitError("no such file", where=str(path), remedy="Name a frame's image file")
    sha256 = file_entry_from_path(path).sha256
    known = [("this frame", photo.label) for photo in bundle.known().photos if photo.sha256 == sha256]
    for what, label in (*known, *_labels_on_device(path, sha256, pinned)):
        if label != GOOD:
            raise ProcunitError(
                f"{what} is known as {label!r}, not {GOOD!r}",
                where=str(path),
                remedy="A bank is grown by good frames only; correct the label, signed, if it is wrong",
            )
    return sha256


def _labels_on_device(path: Path, sha256: str, pinned: tuple[PinnedFrame, ...]) -> Iterator[tuple[str, str]]:
    """What the device's labels call this frame, a copy of it, its result, and other photographs of its part."""
    record, size_bytes = record_from_png(path), path.stat().st_size
    results, parts = {record.get("result_id")}, {record.get("part_id")}
    for frame in pinned:
        if frame.path.resolve() == path or (
            frame.path.stat().st_size == size_bytes and file_entry_from_path(frame.path).sha256 == sha256
        ):
            results.add(frame.result_id)
            parts.add(frame.part_id)
    for frame in pinned:
        if frame.result_id in results:
            yield "this frame", frame.label
        elif frame.part_id is not None and frame.part_id in parts:
            yield f"the frame of result {frame.result_id}, of the same part,", frame.label


def labels_text(path: Path) -> str:
    """The labels of a pinned frame, newest first."""
    newest, *earlier = (clean_text(entry.text) for entry in reversed(labels_of_pinned(path)))
    return f"labelled {newest}" + "".join(f"; before that {text}" for text in earlier)
