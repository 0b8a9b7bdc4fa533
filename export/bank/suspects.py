"""Parts among the good ones that may be mislabelled, for a person to look at; being shown keeps none out of the bank.

There are two signs. The head, where types were taught, takes the part for a defect on average over its photographs. And
the part is unlike all others: its anomaly score in a bank without its own rows lies far above that of most parts, which
needs no head. On magnetic tiles of 111 good parts, with six defective ones hidden among them, the second sign found 13
of 24 in four draws and showed three good parts a draw.
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
from export.bank.candidates import Candidates, places_by_part
from export.bank.space import Matrix
from export.pictures import bank_alone, picture_from_scores, type_alone
from training.data.run_files import RunPhoto, TrainRecord
from training.report.page import note, page_html, paragraph
from training.report.pictures import Picture, legend_html, pictures_html

LOOKS_LIKE_LOGIT = 0.25
"""Logit of the head, averaged over a part's photographs, from which the part is shown (a probability of 0.56): 8 of 111
good magnetic tiles, and 23 of 28 defective ones that the head was not taught with."""
UNLIKE_SPREADS = 2.5
"""A part is unlike the others from so many robust spreads above the median on."""
LEAST_PARTS = 10
"""Fewer do not tell what is usual."""
PARTS_SHOWN, PHOTOS_SHOWN = 40, 3
"""Parts with pictures in the page, and photographs of each; the page stays within a few MB."""
_PICTURE_BYTES = 40_000


@dataclass(frozen=True, slots=True)
class Suspect:
    """A part that may be mislabelled, its most telling photographs first.

    `type_place` is the type that the head takes it for, if any; `left_out` is the share of its patches that are
    kept out of the bank.
    """

    part_id: str
    photos: tuple[RunPhoto, ...]
    type_place: int | None
    reason: str
    left_out: float


def suspects_from_candidates(
    photos: Sequence[RunPhoto],
    candidates: Candidates,
    rows: Matrix,
    part_of_row: NDArray[np.str_],
    types: Sequence[str],
) -> tuple[Suspect, ...]:
    """The suspicious ones of the parts that a bank of rows [M, D + 1] was made of, the most suspicious first.

    None of a bank that was made without good parts.
    """
    if any(photo.label != GOOD for photo in photos):
        return ()
    places_of = places_by_part(photos)
    photo_scores = _scores_among_others(places_of, candidates, rows, part_of_row)
    part_scores = {part: _mean_known(photo_scores[places]) for part, places in places_of.items()}
    usual, limit = _usual_and_limit([score for score in part_scores.values() if score is not None])
    found: list[tuple[float, float, Suspect]] = []
    for part, places in places_of.items():
        logits = candidates.logits[places].mean(0)
        taken_for = int(logits.argmax()) if logits.max(initial=-np.inf) > LOOKS_LIKE_LOGIT else None
        score = part_scores[part]
        unlike = score is not None and score > limit
        if taken_for is None and not unlike:
            continue
        reasons: list[str] = []
        telling = photo_scores[places]
        if taken_for is not None:
            reasons.append(f"looks like {types[taken_for]} ({sigmoid(float(logits[taken_for])):.2f})")
            telling = candidates.logits[places, taken_for].astype(np.float64)
        if unlike:
            reasons.append(f"is unlike all other parts (anomaly score {score:.2f} among them, {usual:.2f} is usual)")
        shown = tuple(photos[places[at]] for at in np.argsort(-telling, kind="stable"))
        left_out = float(candidates.marked[places].mean())
        suspect = Suspect(part, shown, taken_for, ", and it ".join(reasons), left_out)
        found.append((0.0 if taken_for is None else float(logits[taken_for]), score or 0.0, suspect))
    return tuple(suspect for *_, suspect in sorted(found, key=lambda entry: (-entry[0], -entry[1])))


def suspects_page(
    suspects: Sequence[Suspect], rows: Matrix, part_of_row: NDArray[np.str_], record: TrainRecord, engine: Engine
) -> str:
    """The page of the suspicious parts: their photographs with heat maps, why, and what to do about them.

    The engine's bank is swapped for each part's; it is left with the last one.

    Raises:
        ProcunitError: a photograph is gone.
    """
    content = [
        paragraph(
            "Each of these parts lies in the folder of good ones and may be a defect. If it shows one, move its "
            "photographs into that type's folder and train again. If it is good, nothing has to be done; what the bank "
            "does without is said below its pictures."
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
            note(f"Left out of the bank: {suspect.left_out:.1%} of its patches. Photographs: {files}"),
        ]
    more = suspects[PARTS_SHOWN:]
    if more:
        content.append(paragraph(f"And {len(more)} more: {', '.join(suspect.part_id for suspect in more)}."))
    return page_html(f"{record.product}: good parts to look at again", content)


def _scores_among_others(
    places_of: dict[str, list[int]], candidates: Candidates, rows: Matrix, part_of_row: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Each photograph's anomaly score [photos] in the bank without its part's rows; not a number where nothing is left
    of the photograph or of the bank.
    """
    counts = torch.bincount(candidates.photo, minlength=len(candidates.marked)).tolist()
    patches = torch.split(candidates.patches, counts)
    scores = np.full(len(counts), np.nan)
    for part, places in places_of.items():
        others = rows[part_of_row != part]
        for place in places:
            if counts[place] and len(others):
                distances = distances_to_rows(patches[place].numpy(), others)
                scores[place] = score_from_distances(distances, counted_patches(counts[place]))
    return scores


def _mean_known(scores: NDArray[np.float64]) -> float | None:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else None


def _usual_and_limit(part_scores: Sequence[float]) -> tuple[float, float]:
    """The median of the parts' scores, and the score above which a part is unlike the others."""
    if len(part_scores) < LEAST_PARTS:
        return np.nan, np.inf
    center, spread = center_and_spread(np.array(part_scores)[:, np.newaxis])
    return float(center[0]), float(center[0] + UNLIKE_SPREADS * spread[0])


def _picture(suspect: Suspect, photo: RunPhoto, record: TrainRecord, engine: Engine) -> Picture:
    pixels = read_image(Path(record.data) / photo.file)
    scores, _ = score_pixels(pixels, record.geometry, engine)
    shown = bank_alone(scores) if suspect.type_place is None else type_alone(scores, suspect.type_place)
    return picture_from_scores(pixels, shown, record.geometry, photo.file, _PICTURE_BYTES)
