"""The outbox and the frame store as sinks of verdicts; both return at once and do the work on threads of their own."""

from __future__ import annotations

from edge.frames.store import FrameStore
from edge.outbox.outbox import Outbox
from edge.verdict_sink import FinishedPart


class OutboxSink:
    """Stores the result of a part and closes its trigger. It comes first: what acts on a part, acts on a stored one."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def put(self, part: FinishedPart) -> bool:
        """See `VerdictSink.put`; the outbox drops none, but says in time that it is overfull."""
        self._outbox.close_trigger(part.inspection.trigger.seq, part.payload)
        return True


class FrameSink:
    """Keeps the frames of a part."""

    def __init__(self, frames: FrameStore) -> None:
        self._frames = frames

    def put(self, part: FinishedPart) -> bool:
        """See `VerdictSink.put`."""
        return self._frames.put(part.inspection, part.result.result_id, part.recipe, snapshot=part.snapshot)
