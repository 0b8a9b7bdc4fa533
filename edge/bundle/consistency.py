"""Reading all records of a bundle at once, and what they must not say against each other."""

from __future__ import annotations

from edge.bundle.damage import damage_refused
from edge.bundle.manifest import CALIBRATION, KNOWN, MANIFEST, KnownPhotos
from edge.bundle.reader import BundleContent
from edge.errors import ProcunitError

_BUILD_AGAIN = "Build the bundle again"


def check_records(content: BundleContent) -> None:
    """Read the bank and every record, so that what is wrong with one shows when the bundle is opened, not later.

    Raises:
        ProcunitError: one is damaged, or two contradict each other; the text names the file.
    """
    with damage_refused(content.path):
        content.bank()
        content.golden()
        _check_calibration(content)
        _check_evidence(content, content.known())


def _check_calibration(content: BundleContent) -> None:
    """The scores must fit the types of the manifest, and the limits must be of these types."""
    record, names = content.calibration(), [t.name for t in content.manifest.types]
    if record is None:
        return
    if set(record.types) != set(names) or any(len(photo.type_scores) != len(names) for photo in record.scores):
        raise ProcunitError(
            "the calibration is for other defect types than the manifest's",
            where=str(content.path / CALIBRATION),
            remedy=_BUILD_AGAIN,
        )


def _check_evidence(content: BundleContent, known: KnownPhotos) -> None:
    """No type may claim more photographs or seeded parts than the bundle lists, if it lists any."""
    if not known.photos:
        return
    for defect_type in content.manifest.types:
        own = [photo for photo in known.photos if photo.label == defect_type.name]
        taught = [photo for photo in own if photo.role == "train"]
        seeded_parts = {photo.part_id for photo in own if photo.role == "seed"}
        run = defect_type.seeded
        if defect_type.images > len(taught):
            claim = f"{defect_type.images} images taught"
            found = f"{len(taught)}"
        elif defect_type.parts > len({photo.part_id for photo in taught}):
            claim = f"{defect_type.parts} parts taught"
            found = f"{len({photo.part_id for photo in taught})}"
        elif run is not None and run.parts > len(seeded_parts):
            claim = f"a seeded run on {run.parts} parts"
            found = f"{len(seeded_parts)}"
        else:
            continue
        raise ProcunitError(
            f"the type {defect_type.name} claims {claim}, but {KNOWN} lists {found}",
            where=str(content.path / MANIFEST),
            remedy=_BUILD_AGAIN,
        )
