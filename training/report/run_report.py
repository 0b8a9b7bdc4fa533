"""`report.html` of a run: the training data, how well each type is recognized, and what it still needs; no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rich.console import Console

from edge.bundle.manifest import GOOD
from training.data.run_files import TrainRecord
from training.findings import Findings
from training.part_scores import FALSE_ALARM_RATES
from training.report.charts import BandPoint, Mark, curve_svg, roc_svg
from training.report.hardest_parts import HardPart, hard_parts, pictures_of_parts, sheet_jpeg
from training.report.page import note, page_html, paragraph, photographs_table, table
from training.report.pictures import Picture, data_uri, legend_html, pictures_html
from training.report.words import (
    TypeResult,
    agreement_in_words,
    auc_in_words,
    caught_in_words,
    learning_in_words,
    next_steps,
    result_in_words,
    result_of_type,
    shortcomings,
)

REPORT_FILE = "report.html"
"""The page in the run; a bundle has another one with the same name."""
NOTES_SHOWN = 30
_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body { overflow-wrap: break-word; } li { margin: .4rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; } .wide td { white-space: nowrap; } .wide img { min-width: 50rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; } .charts figure { display: block; flex: 1 1 20rem; }
.charts figcaption { display: block; } .chart { display: block; width: 100%; max-width: 26rem; height: auto; }
.pictures { align-items: flex-start; } .pictures figure { min-width: 16rem; }
.pictures figcaption { overflow-wrap: anywhere; }
.notes { border-left: 4px solid #b34700; padding-left: 1rem; }
</style>"""
_NO_TYPES = (
    "No defect type was trained: only the anomaly score inspects the parts; it sends them to review, never rejects. "
    "Put photographs of a defect into a folder with its name and train again."
)
_PICTURES = (
    "<h2>How to read the pictures</h2>",
    legend_html("no sign of the defect", "clear sign"),
    note("Defects with a mask are outlined in the photograph."),
)
_READING = (
    "All figures on this page count parts: photographs of one part are not independent, so a part's score is the mean "
    "of its photographs' scores. All scores come from cross-validation by part: the head that scores a part was not "
    "trained on it, so new parts like these would give similar figures. Scores are percentages; at 50%, training gives "
    "a miss and a false alarm the same weight. A 95% confidence interval contains the true figure in 19 of 20 such "
    "runs; few parts make it wide. The thresholds for production are set later, by procunit calibrate, on held-out "
    "good parts."
)


def training_report_html(record: TrainRecord, findings: Findings, sheet_png: bytes | None, console: Console) -> str:
    """The report of a run, with the contact sheet if there is one.

    Raises:
        ProcunitError: a photograph or a mask that is to be shown is missing.
    """
    results = [result_of_type(record, findings, name) for name in findings.types]
    hard = hard_parts(findings, results)
    shown = list(zip(hard, pictures_of_parts(findings, hard, record.geometry, console), strict=True))
    page = page_html(
        f"{record.product}: training report",
        [
            note(
                f"Dataset {record.dataset_sha256[:12]}, {record.backbone} ({record.weights}), seed {record.seed}, "
                f"procunit-edge {record.code_version}."
            ),
            *_summary(results, findings.notes),
            *_notes(findings.notes),
            "<h2>Photographs</h2>",
            _wide(photographs_table(record)),
            *_sheet(sheet_png),
            *_confusion(findings, results),
            *(_PICTURES if shown else []),
            *(line for result in results for line in _type_section(result, shown)),
            "<h2>How to read this page</h2>",
            paragraph(_READING),
        ],
        _HEAD,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name may be invalid UTF-8


def _summary(results: Sequence[TypeResult], notes: Sequence[str]) -> list[str]:
    if not results:
        return ["<h2>In short</h2>", paragraph(_NO_TYPES)]
    types = (f"<li><strong>{escape(r.name)}</strong>: {escape(result_in_words(r))}</li>" for r in results)
    return [
        "<h2>In short</h2>",
        f"<ul>{''.join(types)}</ul>",
        "<h2>What to do next</h2>",
        _list(next_steps(results, notes), "ol"),
    ]


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    more = [f"And {len(notes) - NOTES_SHOWN} more."] if len(notes) > NOTES_SHOWN else []
    return ["<h2>Warnings</h2>", f'<div class="notes">{_list([*notes[:NOTES_SHOWN], *more])}</div>']


def _sheet(sheet_png: bytes | None) -> list[str]:
    if sheet_png is None:
        return []
    return [
        "<h2>Augmentation</h2>",
        paragraph(
            "Original photographs and augmented views of them. If a view cannot occur on the line or hides the defect, "
            "change the augmentation in dataset.yaml."
        ),
        _wide(f'<img alt="Contact sheet" src="{data_uri(sheet_jpeg(sheet_png), "jpeg")}">'),
    ]


def _confusion(findings: Findings, results: Sequence[TypeResult]) -> list[str]:
    """The confusion table: per label, how many parts each type's head flags at the operating points."""
    if not any(result.points for result in results):
        return []
    labels = [label for label in (GOOD, *findings.types) if any(result.scores.parts.get(label) for result in results)]
    several = len(results) > 1
    shown = ["<h2>What is flagged as what</h2>"]
    for point, rate in enumerate(FALSE_ALARM_RATES):
        rows = [[label, *_confusion_row(results, label, point, any_type=several)] for label in labels]
        header = ("Parts of", *(f"as {result.name}" for result in results), *(["as any type"] if several else []))
        shown += [
            note(f"Parts that reach each type's threshold for a false-positive rate of at most {rate:.0%}:"),
            _wide(table("", header, rows)),
        ]
    if several:
        shown.append(note("Each type adds false alarms, so more good parts are flagged as any type than as one type."))
    return shown


def _confusion_row(results: Sequence[TypeResult], label: str, point: int, *, any_type: bool) -> list[str]:
    cells, flagged, scored = [], set[str](), set[str]()
    for result in results:
        parts = result.scores.parts.get(label, ())
        if not result.points or not parts:
            cells.append("not scored")
            continue
        reaching = {part.part_id for part in parts if part.logit >= result.points[point].threshold}
        cells.append(_share(len(reaching), len(parts)))
        flagged |= reaching
        scored |= {part.part_id for part in parts}
    return [*cells, *([_share(len(flagged), len(scored))] if any_type else [])]


def _type_section(result: TypeResult, shown: Sequence[tuple[HardPart, Picture]]) -> list[str]:
    content = [f"<h2>{escape(result.name)}</h2>", _charts(result)]
    content += [paragraph(caught_in_words(result, point)) for point in result.points]
    agreement = agreement_in_words(result)
    content += [paragraph(agreement)] if agreement else []
    missing = shortcomings(result)
    content += [
        "<h3>What it still needs</h3>",
        _list(missing) if missing else paragraph("Nothing, as far as this run shows."),
    ]
    of_type = [(hard, picture) for hard, picture in shown if hard.type_name == result.name]
    for title, text, is_false_alarm in (
        (
            "Hardest to find",
            "The lowest-scoring parts with this defect. If nobody can see the defect, the label is wrong.",
            False,
        ),
        (
            "Hardest false alarms",
            f"The highest-scoring {result.others_name}. Check them for real defects.",
            True,
        ),
    ):
        pictures = [picture for hard, picture in of_type if hard.is_false_alarm == is_false_alarm]
        content += [f"<h3>{title}</h3>", note(text), pictures_html(pictures)] if pictures else []
    return content


def _charts(result: TypeResult) -> str:
    figures = []
    if result.roc is not None:
        marks = [
            Mark(point.flagged / point.others, point.caught / point.own, f"at most {point.rate:.0%}")
            for point in result.points
        ]
        title = f"ROC curve of {result.name}, by part"
        svg = roc_svg(result.roc.flagged.tolist(), result.roc.caught.tolist(), title, marks)
        figures.append(_figure(svg, auc_in_words(result)))
    if len(result.curve) > 1:
        points = [BandPoint(point.photos, point.auc, point.low, point.high) for point in result.curve]
        svg = curve_svg(points, f"Learning curve of {result.name}", "Training photographs", "Area under curve")
        figures.append(_figure(svg, learning_in_words(result.curve)))
    else:
        figures.append(_figure("", learning_in_words(result.curve)))
    return f'<div class="charts">{"".join(figures)}</div>'


def _wide(html: str) -> str:
    """A container for content that may be wider than a phone, and then scrolls horizontally."""
    return f'<div class="wide">{html}</div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _list(items: Iterable[str], tag: str = "ul") -> str:
    return f"<{tag}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</{tag}>"


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / of:.0%})" if of else "not scored"
