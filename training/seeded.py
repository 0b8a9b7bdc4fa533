"""The seeded set: test photographs held out before training, identified by their content, which prove a bundle.

Every run writes it as `seeded.json`. A later run that is given the file keeps those photographs and their whole parts
out of training, even if files or parts have other names by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from edge.bundle.manifest import KnownPhoto, OneLine
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.files import bytes_from_file, write_whole
from training.data.dataset import Photo

SEEDED_FILE = "seeded.json"
MAX_SEEDED_BYTES = 64 << 20


class SeededPhoto(Record, strict=True):
    """A photograph's content, and its part and label when the set was written."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    part_id: OneLine
    label: OneLine


@dataclass(frozen=True, slots=True)
class SeededSet:
    """The photographs by their content's sha256; `source` is the file that they were read from."""

    photos: Mapping[str, SeededPhoto]
    source: str


class _SeededFile(Record, strict=True):
    photos: tuple[SeededPhoto, ...]

    @model_validator(mode="after")
    def _each_once(self) -> _SeededFile:
        (sha256, times), *_ = Counter(photo.sha256 for photo in self.photos).most_common(1) or [("", 0)]
        if times > 1:
            raise ValueError(f"{sha256} appears {times} times")
        return self


def read_seeded(path: Path) -> SeededSet:
    """The seeded set of a RUN directory, or of its `seeded.json` or a copy.

    Raises:
        ProcunitError: the file is missing or damaged.
    """
    file = path / SEEDED_FILE if path.is_dir() else path
    try:
        found = _SeededFile.model_validate_json(bytes_from_file(file, MAX_SEEDED_BYTES))
    except ProcunitError as error:
        remedy = f"Name a run of `procunit train`, or its {SEEDED_FILE}"
        raise ProcunitError(f"no seeded set here: {error.what}", where=str(file), remedy=remedy) from error
    except ValidationError as error:
        remedy = f"Take the {SEEDED_FILE} that `procunit train` wrote"
        raise ProcunitError(f"not a seeded set: {first_problem(error)}", where=str(file), remedy=remedy) from error
    return SeededSet({photo.sha256: photo for photo in found.photos}, str(file))


def write_seeded(run: Path, photos: Iterable[KnownPhoto], earlier: SeededSet | None = None) -> None:
    """Write the run's set atomically: the seeded ones of `photos`, and the rest of an earlier set.

    Photographs of the earlier set that are not in the data now are kept, so that they are recognized later.
    """
    known = dict(earlier.photos) if earlier is not None else {}
    for photo in photos:
        if photo.role == "seed":
            known[photo.sha256] = SeededPhoto(sha256=photo.sha256, part_id=photo.part_id, label=photo.label)
    ordered = sorted(known.values(), key=lambda photo: (photo.label, photo.part_id, photo.sha256))
    write_whole(run / SEEDED_FILE, (_SeededFile(photos=tuple(ordered)).model_dump_json(indent=1) + "\n").encode())


def seeded_parts(photos: Iterable[Photo], seeded: SeededSet) -> frozenset[str]:
    """The current ids of the parts of which the set holds a photograph.

    Raises:
        ProcunitError: a photograph of the set has another label now, which would silently change the test.
    """
    parts = set()
    for photo in photos:
        known = seeded.photos.get(photo.sha256)
        if known is None:
            continue
        if known.label != photo.label:
            raise ProcunitError(
                f"{photo.path} is labelled {photo.label!r}, but {known.label!r} in this seeded set",
                where=seeded.source,
                remedy=f"Label the photograph {known.label} again; if that label was wrong, correct it in the set, too",
            )
        parts.add(photo.part_id)
    return frozenset(parts)


def refuse_duplicate_photographs(photos: Iterable[Photo]) -> None:
    """Refuse identical photographs with two part ids or two labels; with the same part and label they are harmless.

    Raises:
        ProcunitError: there are such photographs; the message names both files.
    """
    first_of: dict[str, Photo] = {}
    for photo in sorted(photos, key=lambda photo: photo.file):
        first = first_of.setdefault(photo.sha256, photo)
        if first.label != photo.label:
            raise ProcunitError(
                f"identical to {first.path}, but this photograph is labelled {photo.label!r}, that one {first.label!r}",
                where=str(photo.path),
                remedy="Keep the file with the right label",
            )
        if first.part_id != photo.part_id:
            raise ProcunitError(
                f"identical to {first.path}, but this photograph has the part id {photo.part_id!r}, that one "
                f"{first.part_id!r}: a part could be used for training and for testing",
                where=str(photo.path),
                remedy="Remove one of them, or give both the same part_id",
            )
