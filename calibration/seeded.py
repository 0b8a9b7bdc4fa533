"""Seeded runs: a bundle is tested on parts held out before training, and its types earn authority by the results."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.limits import CONFIDENCE
from calibration.scoring import with_progress
from edge.bundle.keys import SigningKey
from edge.bundle.manifest import GOOD, DefectType, KnownPhoto, SeededResult
from edge.bundle.reader import Bundle
from edge.bundle.sealing import seal
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.policy import earned_authority
from edge.system.clock import utc_now
from edge.system.files import new_directory
from training.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Targets:
    """What a type has to prove: the lower bound of its detection rate and the upper bound of its false reject rate."""

    detection: float
    false_reject: float


@dataclass(frozen=True, slots=True)
class SeededPhoto:
    """A photograph of a seeded part and its type scores, sigmoids in the bundle's order."""

    photo: KnownPhoto
    type_scores: tuple[float, ...]


def seeded_run(bundle: Bundle, dataset: Dataset, key: SigningKey, targets: Targets) -> Bundle:
    """Test the bundle on its seeded photographs, set each type's authority, and replace the bundle, sealed again.

    The photographs are replayed, so the run is simulated: it gives authority only with a demo key.

    Raises:
        ProcunitError: the bundle has no types or no seeded photographs, or one of them is not in the folder.
    """
    if not bundle.manifest.types:
        raise ProcunitError("the bundle has no defect types that could earn authority", where=str(bundle.path))
    shown = _scores(bundle, _seeded_paths(bundle, dataset))
    ran_at_utc = utc_now()
    types = []
    for index, defect_type in enumerate(bundle.manifest.types):
        result = seeded_result(defect_type, index, shown, targets, ran_at_utc)
        seeded = defect_type.model_copy(update={"seeded": result, "authority": "review"})
        authority, _ = earned_authority(seeded, demo_key=key.demo)
        types.append(seeded.model_copy(update={"authority": authority}))
    return _seal_again(bundle, tuple(types), key)


def seeded_result(
    defect_type: DefectType, index: int, shown: Sequence[SeededPhoto], targets: Targets, ran_at_utc: str
) -> SeededResult:
    """One type's result, counted in parts.

    A part is detected if the type's score flags every photograph that shows the type; a good part is falsely rejected
    if it flags any of its photographs.
    """
    flags = [(s.photo, s.type_scores[index] >= defect_type.limit.threshold) for s in shown]
    detected = _by_part((photo, flag) for photo, flag in flags if photo.label == defect_type.name)
    good = _by_part((photo, flag) for photo, flag in flags if photo.label == GOOD)
    return SeededResult(
        simulated=True,
        parts=len(detected),
        detected=sum(all(part) for part in detected),
        good_parts=len(good),
        false_rejects=sum(any(part) for part in good),
        target_detection=targets.detection,
        target_false_reject=targets.false_reject,
        confidence=CONFIDENCE,
        ran_at_utc=ran_at_utc,
    )


def _by_part(flags: Iterable[tuple[KnownPhoto, bool]]) -> list[list[bool]]:
    parts: dict[str, list[bool]] = {}
    for photo, flag in flags:
        parts.setdefault(photo.part_id, []).append(flag)
    return list(parts.values())


def _seeded_paths(bundle: Bundle, dataset: Dataset) -> list[tuple[KnownPhoto, Path]]:
    seeded = [photo for photo in bundle.known().photos if photo.role == "seed"]
    if not seeded:
        raise ProcunitError("no parts were held out for a seeded run", where=str(bundle.path))
    paths = {photo.sha256: photo.path for photo in dataset.photos}
    absent = sum(photo.sha256 not in paths for photo in seeded)
    if absent:
        raise ProcunitError(
            f"{absent} of the bundle's {len(seeded)} seeded photographs are not in this folder",
            where=str(dataset.root),
            remedy="Name the folder that the bundle was trained from: a seeded run needs all of them",
        )
    return [(photo, paths[photo.sha256]) for photo in seeded]


def _scores(bundle: Bundle, photos: Sequence[tuple[KnownPhoto, Path]]) -> list[SeededPhoto]:
    engine = OrtEngine(bundle.graphs(), bundle.bank())
    shown = []
    try:
        for photo, path in with_progress(photos, "Inspecting seeded parts"):
            try:
                scores, _ = score_pixels(read_image(path), bundle.manifest.geometry, engine)
            except EngineError as error:
                raise ProcunitError(str(error), where=str(path)) from error
            shown.append(SeededPhoto(photo, scores.type_scores))
    finally:
        engine.close()
    return shown


def _seal_again(bundle: Bundle, types: tuple[DefectType, ...], key: SigningKey) -> Bundle:
    body = bundle.manifest.model_copy(update={"types": types, "created_at_utc": utc_now()})
    with new_directory(bundle.path, replace=True) as partial:
        shutil.copytree(bundle.path, partial, dirs_exist_ok=True)
        sealed = seal(partial, body, key)
        if sealed.manifest.files != bundle.manifest.files:
            raise ProcunitError(
                "a file changed during the seeded run", where=str(bundle.path), remedy="Build the bundle again"
            )
    return Bundle(bundle.path, sealed.manifest, sealed.bundle_id, sealed.signed_by)
