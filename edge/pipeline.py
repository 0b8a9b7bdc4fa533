"""THE data path: trigger -> frames -> tensors -> scores -> decision -> inspection. The daemon stores the inspection."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from edge.engine.protocol import EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.geometry import Geometry
from edge.messages import Decision, Inspection, NotInspected, Timings, Trigger, View, ViewScores
from edge.policy import decide, not_inspected
from edge.recipe import Recipe
from edge.system.clock import elapsed_ms, utc_now


def inspect_part(trigger: Trigger, recipe: Recipe, audit_draw: float) -> Inspection:
    """Return the one inspection of this trigger; every failure becomes a `not_inspected` decision.

    A part is judged only if it has exactly one frame of each view of the recipe. `audit_draw` is a random number,
    uniform in [0, 1); see `edge.policy.decide`.
    """
    queue_ms = elapsed_ms(trigger.triggered_monotonic_ns)
    if not trigger.views:
        reason = trigger.not_inspected or NotInspected.CAMERA
        return Inspection(trigger, not_inspected(reason, _TEXTS[reason]), (), Timings(queue_ms), utc_now())
    scored = _wrong_views(trigger.views, recipe.geometries) or _score_all(trigger.views, recipe)
    if isinstance(scored, Decision):
        return Inspection(trigger, scored, (), Timings(queue_ms), utc_now())
    scores = tuple(of_view for of_view, _ in scored)
    started_ns = time.monotonic_ns()
    decision = decide(scores, recipe.policy, audit_draw)
    preprocess_ms, engine_ms = sum(took.preprocess_ms for _, took in scored), sum(took.engine_ms for _, took in scored)
    timings = Timings(queue_ms, preprocess_ms, engine_ms, elapsed_ms(started_ns))
    return Inspection(trigger, decision, scores, timings, utc_now())


def _score_all(views: Sequence[View], recipe: Recipe) -> Sequence[tuple[ViewScores, Timings]] | Decision:
    """The scores of every view; the first that cannot be scored decides that the part is not inspected."""
    scored = []
    for view in views:
        where = f"view {view.name}: " if len(views) > 1 else ""
        try:
            scores, timings = score_pixels(view.frame.pixels, recipe.geometries[view.name], recipe.engine)
        except ProcunitError as error:
            return not_inspected(NotInspected.BAD_FRAME, f"{where}{error}")
        except EngineError as error:
            return not_inspected(NotInspected.ENGINE, f"{where}{error}")
        scored.append((ViewScores(view.name, scores), timings))
    return scored


def _wrong_views(views: Sequence[View], known: Mapping[str, Geometry]) -> Decision | None:
    """Why the part cannot be judged by these views, or None: it would be judged by fewer, or by others, than taught."""
    names = [view.name for view in views]
    for name in names:
        if name not in known:
            text = f"the frame is of view {name}, which the bundle does not know; it knows {', '.join(known)}"
            return not_inspected(NotInspected.BAD_FRAME, text)
        if names.count(name) > 1:
            return not_inspected(NotInspected.BAD_FRAME, f"{names.count(name)} frames are of view {name}, not one")
    for name in known:
        if name not in names:
            return not_inspected(NotInspected.CAMERA, f"the camera gave no frame of view {name} for this trigger")
    return None


_TEXTS = {
    NotInspected.OVERLOAD: "the part came faster than it could be judged",
    NotInspected.RESTART: "the device stopped before it had judged the part",
    NotInspected.DEVICE_DOWN: "the part passed while the device was down",
    NotInspected.CAMERA: "the camera gave no frame for this trigger",
    NotInspected.BAD_FRAME: "the frame is no usable image",
    NotInspected.ENGINE: "the engine failed on this part",
    NotInspected.DISARMED: "the device is disarmed: parts pass uninspected until the command `arm`",
}
