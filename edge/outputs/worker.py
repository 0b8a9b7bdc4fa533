"""One output on a thread of its own: a verdict reaches it at once, or in time, or not at all."""

from __future__ import annotations

import time

from edge.faults import FaultId
from edge.messages import NotInspected
from edge.outputs.output import Output, OutputError
from edge.queued_worker import SHOWN_S, QueuedWorker
from edge.verdict_sink import FinishedPart

MAX_WAITING_PARTS = 16
"""An output that is this far behind acts on no further part until it has caught up."""
DELIVERY_DEADLINE_S = 2.0
"""An output that takes longer for one part is a fault."""
_STOP_S = 3.0
_GONE = (NotInspected.RESTART, NotInspected.DEVICE_DOWN)
"""Parts with these results have left the line: the result closes their trigger, and nothing may act on them."""


class OutputWorker(QueuedWorker[FinishedPart]):
    """Passes finished parts to `output`, which people know by `label`; both a `VerdictSink` and a `Worker`.

    A part whose trigger is older than `deadline_s` has passed the place where the output acts: it is never delivered,
    so that an output that hung acts on no other part than the one it is meant for.
    """

    def __init__(self, label: str, output: Output, deadline_s: float) -> None:
        self._label = f"output {label}"
        self._output = output
        self._deadline_s = deadline_s
        super().__init__(
            self._label,
            self._label,
            self._act,
            size=lambda _part: 1,
            limit=lambda _part: MAX_WAITING_PARTS,
            failed=FaultId.OUTPUT_FAILED,
            full=FaultId.OUTPUT_BEHIND,
            deadline_s=DELIVERY_DEADLINE_S,
            stop_s=_STOP_S,
            failure_shown_s=SHOWN_S,
            at_end=output.close,
        )

    def put(self, item: FinishedPart) -> bool:
        """See `VerdictSink.put`; parts that have left the line are left out."""
        return item.inspection.decision.not_inspected in _GONE or super().put(item)

    def _act(self, part: FinishedPart) -> None:
        trigger = part.inspection.trigger
        age_s = (time.monotonic_ns() - trigger.triggered_monotonic_ns) / 1e9
        try:
            if age_s > self._deadline_s:
                raise OutputError(f"it was {age_s:.1f} s old when its turn came: too late")  # noqa: TRY301
            self._output.deliver(part)
        except OutputError as error:
            raise OutputError(f"{self._label}, part {trigger.seq}: {error}") from error
