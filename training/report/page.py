"""The page template of the reports that offline stages write: one self-contained file that may load nothing."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from edge.bundle.manifest import GOOD
from training.data.run_files import SplitSide, TrainRecord

_NAME_OF_SIDE: dict[SplitSide, str] = {
    "train": "Training",
    "calibrate": "Held out for thresholds",
    "seed": "Held out for seeding",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: #55606f; padding-bottom: .3rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #d5dae1; vertical-align: top; }
p.note, figcaption { color: #55606f; } .legend img { vertical-align: middle; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; } img { max-width: 100%; }
figure { display: table; margin: 0; } figcaption { display: table-caption; caption-side: bottom; }
"""
_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page_html(title: str, content: Iterable[str], head: str = "") -> str:
    """A self-contained page that may load nothing; the title is escaped, `content` and `head` must be HTML."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>{head}</head><body>",
            f"<h1>{escape(title)}</h1>",
            *content,
            "</body></html>",
            "",
        ]
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text, which is escaped."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A paragraph of minor importance, which is escaped."""
    return f'<p class="note">{escape(text)}</p>'


def table(caption: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of plain text, which is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{''.join(lines)}</table>"


def photographs_table(trained: TrainRecord) -> str:
    """Images and parts of each label on each side of the split."""
    rows = []
    for label in (GOOD, *trained.types):
        cells = [label]
        for side in _NAME_OF_SIDE:
            parts = [photo.part_id for photo in trained.photos if photo.label == label and photo.role == side]
            cells.append(f"{len(parts)} images, {len(set(parts))} parts" if parts else "none")
        rows.append(cells)
    caption = "Split by part: all photographs of one part are on one side."
    return table(caption, ("", *_NAME_OF_SIDE.values()), rows)
