"""`report.html`: what the bundle was taught, what it may claim and what it lacks; one file, no network."""

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
"""The page in the run that shows good parts to look at again."""
_SUSPECTS_TEXT = (
    f"Some of the good parts look as if they were defects: {SUSPECTS_FILE} in the run shows them. If one is, move its "
    "photographs into its type's folder and train again."
)


def report_html(
    body: ManifestBody,
    trained: TrainRecord,
    exported: ExportRecord,
    galleries: Sequence[Gallery],
    *,
    has_suspects: bool,
) -> str:
    """The report of a newly built bundle; `has_suspects` tells whether the run has good parts to look at again."""
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
                "This page was written when the bundle was built; `procunit bundle show` tells what a seeded run has "
                "given since."
            ),
            "<h2>False alarms</h2>",
            paragraph(f"Held-out good parts support: {body.budget.in_words() if body.budget else NO_BUDGET}."),
            paragraph(_anomaly_text(body)),
            "<h2>What the bank takes to be unusual</h2>",
            *_galleries(galleries),
            "<h2>Where it comes from</h2>",
            table("", ("", ""), _provenance_rows(body, exported)),
        ],
    )


def _galleries(galleries: Sequence[Gallery]) -> list[str]:
    shown = [
        note(
            "The good parts with the highest anomaly scores, judged by a bank without them, and of each type the parts "
            "with the highest scores and the photograph with the lowest, which the bank alone finds hardest to tell."
        ),
        legend_html(),
    ]
    for gallery in galleries:
        shown += [f"<h3>{escape(gallery.title)}</h3>", pictures_html(gallery.pictures)]
    return shown


def _types_table(body: ManifestBody, trained: TrainRecord) -> str:
    if not body.types:
        return paragraph("None taught: the anomaly score alone, which sends to review and never rejects.")
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
    return table("AUC: 1 separates the type from good parts fully, 0.5 not at all.", header, rows)


def _anomaly_text(body: ManifestBody) -> str:
    if body.anomaly is None:
        return "No anomaly threshold: without held-out good parts there is nothing to compare with."
    return f"The anomaly score sends a part to a person from {body.anomaly.threshold:.4f} on; it never rejects."


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
