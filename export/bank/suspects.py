"""Parts in the good folder that may be mislabelled, for a person to check; this list excludes nothing from the bank.

There are two signs. The first needs taught defect types: averaged over its photographs, the head takes the part for a
defect. The second needs no head: the part is an outlier, its anomaly score against a bank without its own rows is far
above that of most parts. On 111 good magnetic tiles with six defective ones hidden among them, the second sign found 13
of 24 hidden parts in four draws and listed three good parts per draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge.anomaly import center_and_spread, counted_patches, distances_to_rows, score_from_distances
from edge.bundle.manifest import GOOD
from edge.engine.protocol import Engine
from edge.engine.scores import score_pixels
from edge.image_file import read_image
from edge.policy import sigmoid
from export.bank.candidates import Candidates, photo_indices_by_part
from export.bank.space import Matrix
from export.pictures import bank_alone, picture_from_scores, type_alone
from training.data.run_files import RunPhoto, TrainRecord
from training.report.page import note, page_html, paragraph
from training.report.pictures import Picture, legend_html, pictures_html

LOOKS_LIKE_LOGIT = 0.25
"""A part is listed from this mean logit of the head over its photographs on (a probability of 0.56). That lists 8 of
111 good magnetic tiles, and 23 of 28 defective ones that the head was not taught with."""
OUTLIER_SPREADS = 2.5
"""A part is an outlier if its score is this many robust spreads above the median."""
MIN_PARTS = 10
"""With fewer parts the median and spread are not reliable, so no part is called an outlier."""
PARTS_SHOWN, PHOTOS_SHOWN = 40, 3
"""Parts shown with pictures, and photographs per part, so that the page stays within a few MB."""
_PICTURE_BYTES = 40_000


@dataclass(frozen=True, slots=True)
class Suspect:
    """A part that may be mislabelled, its most suspicious photographs first.

    `type_index` is the type that the head takes it for, if any; `excluded_share` is the share of its patches that are
    excluded from the bank.
    """

    part_id: str
    photos: tuple[RunPhoto, ...]
    type_index: int | None
    reason: str
    excluded_share: float


def suspects_from_candidates(
    photos: Sequence[RunPhoto],
    candidates: Candidates,
    rows: Matrix,
    part_of_row: NDArray[np.str_],
    types: Sequence[str],
) -> tuple[Suspect, ...]:
    """The suspects among the parts that a bank of rows [M, D + 1] was built from, the most suspicious first.

    Empty if the bank was built without good parts.
    """
    if any(photo.label != GOOD for photo in photos):
        return ()
    indices_of = photo_indices_by_part(photos)
    photo_scores = _scores_without_own_rows(indices_of, candidates, rows, part_of_row)
    part_scores = {part: _mean_known(photo_scores[indices]) for part, indices in indices_of.items()}
    median, limit = _median_and_limit([score for score in part_scores.values() if score is not None])
    found: list[tuple[float, float, Suspect]] = []
    for part, indices in indices_of.items():
        logits = candidates.logits[indices].mean(0)
        type_index = int(logits.argmax()) if logits.max(initial=-np.inf) > LOOKS_LIKE_LOGIT else None
        score = part_scores[part]
        is_outlier = score is not None and score > limit
        if type_index is None and not is_outlier:
            continue
        reasons: list[str] = []
        order_by = photo_scores[indices]
        if type_index is not None:
            reasons.append(f"looks like {types[type_index]} ({sigmoid(float(logits[type_index])):.2f})")
            order_by = candidates.logits[indices, type_index].astype(np.float64)
        if is_outlier:
            reasons.append(f"is unlike all other parts (anomaly score {score:.2f}, the median is {median:.2f})")
        shown = tuple(photos[indices[position]] for position in np.argsort(-order_by, kind="stable"))
        excluded_share = float(candidates.excluded_share[indices].mean())
        suspect = Suspect(part, shown, type_index, ", and it ".join(reasons), excluded_share)
        found.append((0.0 if type_index is None else float(logits[type_index]), score or 0.0, suspect))
    return tuple(suspect for *_, suspect in sorted(found, key=lambda entry: (-entry[0], -entry[1])))


def suspects_page(
    suspects: Sequence[Suspect], rows: Matrix, part_of_row: NDArray[np.str_], record: TrainRecord, engine: Engine
) -> str:
    """The HTML page of the suspects: their photographs with heat maps, the reasons, and what to do.

    Each part is scored without its own rows; the engine keeps the last of these banks.

    Raises:
        ProcunitError: a photograph is missing.
    """
    content = [
        paragraph(
            "Each of these parts is in the folder of good parts but may be defective. If it shows a defect, move its "
            "photographs into the folder of that defect type and train again. If it is good, you need not do anything. "
            "The share of its patches that is excluded from the memory bank is given below its pictures."
        ),
        legend_html(),
    ]
    for suspect in suspects[:PARTS_SHOWN]:
        engine.swap_bank(rows[part_of_row != suspect.part_id])
        pictures = [_picture(suspect, photo, record, engine) for photo in suspect.photos[:PHOTOS_SHOWN]]
        files = ", ".join(photo.file for photo in suspect.photos)
        content += [
            f"<h2>Part {escape(suspect.part_id)}</h2>",
            paragraph(f"It {suspect.reason}."),
            pictures_html(pictures),
            note(f"Excluded from the memory bank: {suspect.excluded_share:.1%} of its patches. Photographs: {files}"),
        ]
    more = suspects[PARTS_SHOWN:]
    if more:
        content.append(paragraph(f"And {len(more)} more: {', '.join(suspect.part_id for suspect in more)}."))
    return page_html(f"{record.product}: good parts to look at again", content)


def _scores_without_own_rows(
    indices_of: dict[str, list[int]], candidates: Candidates, rows: Matrix, part_of_row: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Each photograph's anomaly score [photographs] against the bank without the rows of its part.

    NaN if the photograph has no candidate patch or the bank no other row.
    """
    counts = torch.bincount(candidates.photo_index, minlength=len(candidates.excluded_share)).tolist()
    patches = torch.split(candidates.patches, counts)
    scores = np.full(len(counts), np.nan)
    for part, indices in indices_of.items():
        others = rows[part_of_row != part]
        for index in indices:
            if counts[index] and len(others):
                distances = distances_to_rows(patches[index].numpy(), others)
                scores[index] = score_from_distances(distances, counted_patches(counts[index]))
    return scores


def _mean_known(scores: NDArray[np.float64]) -> float | None:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else None


def _median_and_limit(part_scores: Sequence[float]) -> tuple[float, float]:
    """The median of the parts' scores, and the score above which a part is an outlier."""
    if len(part_scores) < MIN_PARTS:
        return np.nan, np.inf
    center, spread = center_and_spread(np.array(part_scores)[:, np.newaxis])
    return float(center[0]), float(center[0] + OUTLIER_SPREADS * spread[0])


def _picture(suspect: Suspect, photo: RunPhoto, record: TrainRecord, engine: Engine) -> Picture:
    pixels = read_image(Path(record.data) / photo.file)
    scores, _ = score_pixels(pixels, record.geometry, engine)
    shown = bank_alone(scores) if suspect.type_index is None else type_alone(scores, suspect.type_index)
    return picture_from_scores(pixels, shown, record.geometry, photo.file, _PICTURE_BYTES)
