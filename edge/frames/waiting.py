"""What waits to be written of one part: the frame of each view with its file name, its record and its scores."""

from __future__ import annotations

from dataclasses import dataclass

from edge.contract.encoding import rounded_score
from edge.contract.payloads import shows_frame
from edge.frames.image import Record
from edge.frames.pin_record import LabelEntry
from edge.frames.stored import frame_name, part_hash
from edge.messages import Inspection, PixelArray, Scores, Verdict, View
from edge.recipe import Recipe


@dataclass(frozen=True, slots=True)
class WaitingView:
    """One view of a part: its name, and its frame; `scores` is None if the frame gets no heatmap."""

    name: str
    file_name: str
    pixels: PixelArray
    record: Record
    scores: Scores | None


@dataclass(eq=False, slots=True)
class WaitingPart:
    """All views of a part until they are written; `labels` are those that came meanwhile.

    `part` is the hash of the part's id, `shown` whether its frames are published.
    """

    result_id: str
    part: str | None
    shown: bool
    inspected: bool
    recipe: Recipe
    views: tuple[WaitingView, ...]
    labels: tuple[LabelEntry, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The bytes of all its pixels."""
        return sum(view.pixels.nbytes for view in self.views)


def waiting_part(inspection: Inspection, result_id: str, recipe: Recipe, *, snapshot: bool) -> WaitingPart:
    """The frames of an inspection by a recipe; those of a `snapshot` are published whatever the verdict.

    Pixels are not copied.
    """
    decision, part_id = inspection.decision, inspection.trigger.part_id
    decided = "audit" if decision.audit else decision.verdict.value
    shown = snapshot or shows_frame(decision)
    bundle_id = recipe.bundle.bundle_id
    scores = {of_view.view: of_view.scores for of_view in inspection.scores}
    views = tuple(
        WaitingView(
            view.name,
            frame_name(result_id, decided, part_id, view.name),
            view.frame.pixels,
            {"result_id": result_id, **_record(inspection, view, scores.get(view.name)), "bundle_id": bundle_id},
            scores.get(view.name) if shown else None,
        )
        for view in inspection.trigger.views
    )
    part = None if part_id is None else part_hash(part_id)
    return WaitingPart(result_id, part, shown, decision.verdict is not Verdict.NOT_INSPECTED, recipe, views)


def _record(inspection: Inspection, view: View, scores: Scores | None) -> Record:
    trigger, decision = inspection.trigger, inspection.decision
    return {
        "part_id": trigger.part_id,
        "view": view.name,
        "frame_id": view.frame.frame_id,
        "triggered_at_utc": trigger.triggered_at_utc,
        "verdict": decision.verdict.value,
        "audit": decision.audit,
        "type_scores": None if scores is None else [rounded_score(score, None) for score in scores.type_scores],
        "anomaly_score": None if scores is None else rounded_score(scores.anomaly_score, None),
    }
