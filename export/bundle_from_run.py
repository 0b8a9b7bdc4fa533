"""Build a bundle from a run's files and sign it; no defect type of a new bundle has authority yet."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import ValidationError

from edge.bundle.keys import SigningKey
from edge.bundle.manifest import (
    BANK,
    CALIBRATION,
    HELD_OUT,
    KNOWN,
    PATCHES_GRAPH,
    REPORT,
    DefectType,
    KnownPhoto,
    KnownPhotos,
    ManifestBody,
    Provenance,
)
from edge.bundle.reader import Bundle, bank_from_file
from edge.bundle.records import CalibrationRecord
from edge.bundle.sealing import seal
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from edge.system.clock import utc_now
from edge.system.files import new_directory
from export.golden import ReferenceModel, golden_photos, tolerance_from_scores, write_golden
from export.pictures import galleries_from_run
from export.report import SUSPECTS_FILE, report_html
from training.data.run_files import (
    BANK_FILE,
    CALIBRATION_FILE,
    EXPORT_FILE,
    HELD_OUT_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    graphs_of_run,
    read_record,
)


def bundle_from_run(
    run: Path, out: Path, key: SigningKey, *, product: str | None = None, version: int = 1, replace: bool = False
) -> Bundle:
    """Build and seal a bundle at `out`, complete or not at all; `product` defaults to the run's product name.

    Raises:
        ProcunitError: a stage has not run or does not fit the others, a photograph is missing, or `out` exists.
    """
    trained = read_record(run, TRAIN_FILE, TrainRecord)
    exported = read_record(run, EXPORT_FILE, ExportRecord)
    calibrated = read_record(run, CALIBRATION_FILE, CalibrationRecord)
    if set(calibrated.types) != set(trained.types):
        raise ProcunitError(
            "the calibration is for other defect types than the training",
            where=str(run / CALIBRATION_FILE),
            remedy="Run `procunit export` and `procunit calibrate` again",
        )
    try:
        body = _body(trained, calibrated, product or trained.product, version)
    except ValidationError as error:
        first = error.errors()[0]
        key_name = ".".join(str(part) for part in first["loc"])
        raise ProcunitError(
            f"{key_name} {first.get('input')!r}: {first['msg']}",
            where=str(run / TRAIN_FILE),
            remedy="A name has at most 64 letters, digits, spaces and _ . - characters; set the product with --product",
        ) from error
    with new_directory(out, replace=replace) as partial:
        for precision in exported.differences:
            for graph in graphs_of_run(run, exported, precision):
                shutil.copyfile(graph, partial / graph.name)
        shutil.copyfile(run / BANK_FILE, partial / BANK)
        shutil.copyfile(run / PATCHES_GRAPH, partial / PATCHES_GRAPH)
        shutil.copyfile(run / HELD_OUT_FILE, partial / HELD_OUT)
        shutil.copyfile(run / CALIBRATION_FILE, partial / CALIBRATION)
        (partial / KNOWN).write_text(_known(trained).model_dump_json(indent=1) + "\n", encoding="utf-8")
        engine = OrtEngine(graphs_of_run(partial, exported), bank_from_file(partial / BANK))
        try:
            reference = ReferenceModel(body.types, body.anomaly, body.geometry, engine)
            _write_golden(partial, trained, calibrated, reference)
            galleries = galleries_from_run(run, trained, exported, calibrated, reference)
        finally:
            engine.close()
        has_suspects = (run / SUSPECTS_FILE).exists()
        report = report_html(body, trained, exported, galleries, has_suspects=has_suspects)
        (partial / REPORT).write_text(report, encoding="utf-8")
        sealed = seal(partial, body, key)
    return Bundle(out, sealed.manifest, sealed.bundle_id, sealed.signed_by)


def _body(trained: TrainRecord, calibrated: CalibrationRecord, product: str, version: int) -> ManifestBody:
    return ManifestBody(
        product=product,
        version=version,
        created_at_utc=utc_now(),
        geometry=trained.geometry,
        types=tuple(_defect_type(name, trained, calibrated) for name in trained.types),
        anomaly=calibrated.anomaly,
        budget=calibrated.budget,
        imaging=calibrated.imaging,
        provenance=Provenance(
            dataset_sha256=trained.dataset_sha256,
            code_version=trained.code_version,
            seed=trained.seed,
            backbone=trained.backbone,
            weights=trained.weights,
            packages=trained.packages,
        ),
    )


def _defect_type(name: str, trained: TrainRecord, calibrated: CalibrationRecord) -> DefectType:
    part_ids = [photo.part_id for photo in trained.photos if photo.label == name and photo.role == "train"]
    return DefectType(name=name, images=len(part_ids), parts=len(set(part_ids)), limit=calibrated.types[name])


def _known(trained: TrainRecord) -> KnownPhotos:
    return KnownPhotos(
        photos=tuple(
            KnownPhoto(sha256=photo.sha256, part_id=photo.part_id, label=photo.label, role=photo.role)
            for photo in trained.photos
        )
    )


def _write_golden(
    partial: Path, trained: TrainRecord, calibrated: CalibrationRecord, reference: ReferenceModel
) -> None:
    paths = {photo.sha256: Path(trained.data) / photo.file for photo in trained.photos}
    chosen = golden_photos(calibrated.scores, reference.types, reference.anomaly)
    tolerance = tolerance_from_scores(calibrated.scores, reference.types, reference.anomaly)
    write_golden(partial, [(paths[photo.sha256], photo) for photo in chosen], reference, tolerance)
