"""THE data path: trigger -> frame -> tensor -> scores -> decision -> inspection. The daemon stores the inspection."""

from __future__ import annotations

import time

from edge.engine.protocol import EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.messages import Inspection, NotInspected, Timings, Trigger
from edge.policy import decide, not_inspected
from edge.recipe import MAIN_VIEW, Recipe
from edge.system.clock import elapsed_ms, utc_now


def inspect_part(trigger: Trigger, recipe: Recipe, audit_draw: float) -> Inspection:
    """Return the one inspection of this trigger; every failure becomes a `not_inspected` decision.

    `audit_draw` is a random number, uniform in [0, 1); see `edge.policy.decide`.
    """
    queue_ms = elapsed_ms(trigger.triggered_monotonic_ns)
    frame = trigger.frame
    if frame is None:
        reason = trigger.not_inspected or NotInspected.CAMERA
        return Inspection(trigger, not_inspected(reason, _TEXTS[reason]), None, Timings(queue_ms), utc_now())
    try:
        scores, timings = score_pixels(frame.pixels, recipe.geometries[MAIN_VIEW], recipe.engine)
    except ProcunitError as error:
        decision = not_inspected(NotInspected.BAD_FRAME, str(error))
        return Inspection(trigger, decision, None, Timings(queue_ms), utc_now())
    except EngineError as error:
        decision = not_inspected(NotInspected.ENGINE, str(error))
        return Inspection(trigger, decision, None, Timings(queue_ms), utc_now())
    started_ns = time.monotonic_ns()
    decision = decide(scores, recipe.policy, audit_draw)
    timings = Timings(queue_ms, timings.preprocess_ms, timings.engine_ms, elapsed_ms(started_ns))
    return Inspection(trigger, decision, scores, timings, utc_now())


_TEXTS = {
    NotInspected.OVERLOAD: "the part came faster than it could be judged",
    NotInspected.RESTART: "the device stopped before it had judged the part",
    NotInspected.DEVICE_DOWN: "the part passed while the device was down",
    NotInspected.CAMERA: "the camera gave no frame for this trigger",
    NotInspected.BAD_FRAME: "the frame is no usable image",
    NotInspected.ENGINE: "the engine failed on this part",
    NotInspected.DISARMED: "the device is disarmed: parts pass uninspected until the command `arm`",
}
