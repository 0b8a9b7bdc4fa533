"""`procunit evaluate`: labelled photographs through the on-device path, without parts the bundle was made from."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from calibration.evaluation import Evaluation, Latency
from calibration.figures import InspectedPhoto, Scored, figures_from_inspected, image_of, part_of
from calibration.metrics import agreement
from calibration.scoring import with_progress
from edge.bundle.reader import BundleContent
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.messages import Frame, Trigger
from edge.pipeline import inspect_part
from edge.policy import alarm_margin, policy_from_manifest
from edge.recipe import Recipe, recipe_from_bundle
from edge.system.clock import utc_now
from training.data.dataset import Dataset, Photo

AUDIT_DRAW_NEVER = 1.0


def evaluate_folder(content: BundleContent, dataset: Dataset, *, demo_key: bool) -> Evaluation:
    """Inspect every photograph of parts that the bundle was not made from; `demo_key` is whether a demo key signed it.

    Raises:
        ProcunitError: the bundle was made from all of the parts, or an image is not readable.
    """
    photos = unknown_photos(content, dataset)
    inspected = _inspect_all(content, photos, demo_key=demo_key)
    manifest = content.manifest
    types, has_anomaly = tuple(t.name for t in manifest.types), manifest.anomaly is not None
    by_part = figures_from_inspected(inspected, types, has_anomaly=has_anomaly, unit_of=part_of)
    by_image = figures_from_inspected(inspected, types, has_anomaly=has_anomaly, unit_of=image_of)
    verdicts: dict[str, list[str]] = {}
    for p in inspected:
        verdicts.setdefault(p.photo.part_id, []).append(p.verdict.value)
    p50, p95, p99 = np.percentile([p.inspect_ms for p in inspected], [50, 95, 99]).tolist()
    return Evaluation(
        bundle=content.bundle_id,
        images=len(photos),
        parts=len(verdicts),
        skipped_images=len(dataset.photos) - len(photos),
        anomaly=by_part.anomaly,
        types=by_part.types,
        verdicts=by_part.verdicts,
        at_false_alarm=by_part.at_false_alarm,
        within_part_agreement=agreement(list(verdicts.values())),
        size_only_auc=by_part.size_only_auc,
        latency_ms=Latency(p50=p50, p95=p95, p99=p99),
        by_image=by_image,
    )


def unknown_photos(content: BundleContent, dataset: Dataset) -> list[Photo]:
    """Photographs of parts without a training or calibration photograph, which are recognized by content.

    Raises:
        ProcunitError: there are none.
    """
    known = {photo.sha256 for photo in content.known().photos if photo.role != "seed"}
    known_parts = {photo.part_id for photo in dataset.photos if photo.sha256 in known}
    photos = [photo for photo in dataset.photos if photo.part_id not in known_parts]
    if not photos:
        raise ProcunitError(
            "every part in this folder was used to make the bundle",
            where=str(dataset.root),
            remedy="Evaluate with photographs of other parts",
        )
    return photos


def _inspect_all(content: BundleContent, photos: Sequence[Photo], *, demo_key: bool) -> list[InspectedPhoto]:
    engine = OrtEngine(content.graphs(), content.bank())
    policy = policy_from_manifest(content.manifest, demo_key=demo_key)
    recipe = recipe_from_bundle(content, policy, engine)
    try:
        _inspect_one(recipe, 0, photos[0])  # the first run sets the engine up and is not timed
        return [
            _inspect_one(recipe, number, photo)
            for number, photo in enumerate(with_progress(photos, "Inspecting photographs"), start=1)
        ]
    finally:
        engine.close()


def _inspect_one(recipe: Recipe, number: int, photo: Photo) -> InspectedPhoto:
    pixels = read_image(photo.path)
    now_utc, now_ns = utc_now(), time.monotonic_ns()
    frame = Frame(photo.file, photo.part_id, number, now_utc, now_ns, pixels)
    trigger = Trigger(number, photo.file, photo.part_id, number, now_utc, now_ns, frame)
    inspection, manifest = inspect_part(trigger, recipe, AUDIT_DRAW_NEVER), recipe.bundle.manifest
    scored, scores = None, inspection.scores
    if scores is not None and np.isfinite([*scores.type_scores, scores.anomaly_score]).all():
        margin = alarm_margin(scores, tuple(t.limit for t in manifest.types), manifest.anomaly)
        height_px, width_px = pixels.shape[:2]
        scored = Scored(photo, width_px, height_px, scores.type_scores, scores.anomaly_score, margin)
    return InspectedPhoto(photo, inspection.decision.verdict, inspection.timings.inspect_ms, scored)
