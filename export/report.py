"""`report.html` of a bundle: its training data, its thresholds and its limits; one file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edge.bundle.manifest import NO_BUDGET, ManifestBody
from edge.policy import MIN_IMAGES, MIN_PARTS, earned_authority
from export.pictures import Gallery
from training.data.run_files import ExportRecord, TrainRecord
from training.report.page import note, page_html, paragraph, photographs_table, table
from training.report.pictures import legend_html, pictures_html

SUSPECTS_FILE = "suspects.html"
"""The page in the run that shows good parts that may be mislabelled."""
_SUSPECTS_TEXT = (
    f"Some of the good parts may be mislabelled: {SUSPECTS_FILE} in the run shows them. If a part is defective, move "
    "its photographs into the folder of its defect type and train again."
)


def report_html(
    body: ManifestBody,
    trained: TrainRecord,
    exported: ExportRecord,
    galleries: Sequence[Gallery],
    *,
    has_suspects: bool,
) -> str:
    """The report of a newly built bundle; with `has_suspects` it points to the run's page of suspects."""
    return page_html(
        f"{body.product}, version {body.version}",
        [
            note(f"Built {body.created_at_utc} from dataset {body.provenance.dataset_sha256[:12]}."),
            "<h2>Photographs</h2>",
            photographs_table(trained),
            *([paragraph(_SUSPECTS_TEXT)] if has_suspects else []),
            "<h2>Defect types</h2>",
            _types_table(body, trained),
            note(
                f"A type may reject only with {MIN_IMAGES} taught images of {MIN_PARTS} parts and a passed seeded run. "
                "This page was written when the bundle was built; `procunit bundle show` also shows the results of "
                "later seeded runs."
            ),
            "<h2>False alarms</h2>",
            paragraph(f"Held-out good parts support: {body.budget.in_words() if body.budget else NO_BUDGET}."),
            paragraph(_anomaly_text(body)),
            "<h2>What the memory bank finds unusual</h2>",
            *_galleries(galleries),
            "<h2>Origin</h2>",
            table("", ("", ""), _provenance_rows(body, exported)),
        ],
    )


def _galleries(galleries: Sequence[Gallery]) -> list[str]:
    shown = [
        note(
            "The good parts with the highest anomaly scores, scored by a bank built without them. Then, per type, the "
            "parts with the highest scores and the photograph with the lowest, the hardest one for the bank."
        ),
        legend_html(),
    ]
    for gallery in galleries:
        shown += [f"<h3>{escape(gallery.title)}</h3>", pictures_html(gallery.pictures)]
    return shown


def _types_table(body: ManifestBody, trained: TrainRecord) -> str:
    if not body.types:
        return paragraph("None taught. Only the anomaly score is used; it sends parts to review and never rejects.")
    rows = []
    for t in body.types:
        auc = trained.out_of_fold_auc.get(t.name)
        _, reason = earned_authority(t, demo_key=False)
        rows.append(
            [
                t.name,
                f"{t.images} images, {t.parts} parts",
                "not measured" if auc is None else f"{auc:.3f}",
                f"{t.limit.threshold:.4f}",
                reason,
            ]
        )
    header = ("Type", "Taught", "AUC on parts left out", "Flagged from", "Authority: review, because")
    return table("AUC: 1 means the type is fully separated from good parts, 0.5 means not at all.", header, rows)


def _anomaly_text(body: ManifestBody) -> str:
    if body.anomaly is None:
        return "No anomaly threshold: it needs held-out good parts, and there are none."
    return f"From an anomaly score of {body.anomaly.threshold:.4f} on, a part is sent to review; it is never rejected."


def _provenance_rows(body: ManifestBody, exported: ExportRecord) -> list[list[str]]:
    p = body.provenance
    return [
        ["Network", f"{p.backbone}, weights: {p.weights}"],
        ["Input", f"{body.geometry.input_width_px} x {body.geometry.input_height_px} px"],
        ["Memory bank", f"{exported.bank_rows} rows of {exported.feature_size} from {exported.bank_parts} good parts"],
        *(
            [
                f"{precision.upper()} graph against training",
                f"largest difference on {exported.parity_frames} frames: logits {difference.logits:.2g}, distances "
                f"{difference.distances:.2g} (ONNX opset {exported.opset})",
            ]
            for precision, difference in exported.differences.items()
        ),
        ["Code and seed", f"procunit-edge {p.code_version}, seed {p.seed}"],
        ["Packages", ", ".join(f"{name} {version}" for name, version in sorted(p.packages.items()))],
    ]
