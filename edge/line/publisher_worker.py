"""The publisher as a `Worker`."""

from __future__ import annotations

import logging
import time

from edge.faults import FaultId
from edge.mqtt.publisher import STATUS_TIMEOUT_S, Publisher
from edge.outbox.outbox import Outbox
from edge.worker import Problems, WorkerState

COMMIT_S = 5.0
"""When it stops: how long it waits until what was handed to the outbox is on the disk, and can be sent."""
SEND_S = 5.0
"""When it stops: how long it goes on sending what is unsent."""
PATIENCE_S = 3.0
"""The broker may be disconnected this long before it is a fault."""

_logger = logging.getLogger(__name__)


class PublisherWorker:
    """Starts, stops and watches the publisher with its thread for commands; a `Worker`."""

    name = "publisher"
    stop_s = COMMIT_S + SEND_S + 2 * STATUS_TIMEOUT_S

    def __init__(self, publisher: Publisher, outbox: Outbox) -> None:
        self._publisher = publisher
        self._outbox = outbox
        self._linked_monotonic_s = time.monotonic()
        self._state = WorkerState.WAITING

    @property
    def state(self) -> WorkerState:
        """See `Worker`; it never fails, as it connects again whatever happened."""
        return self._state

    def start(self) -> None:
        """Start the threads."""
        self._publisher.start()
        self._state = WorkerState.RUNNING

    def stop(self) -> bool:
        """Send what is unsent, as far as the time allows; False if something could not be committed before."""
        committed = self._outbox.flush(COMMIT_S)
        if not committed:
            _logger.error("results cannot be written to the disk")
        self._publisher.stop(SEND_S)
        self._state = WorkerState.ENDED
        return committed

    def problems(self) -> Problems:
        """Whether the broker is out of reach for longer than `PATIENCE_S`, and why."""
        link, now_s = self._publisher.state, time.monotonic()
        if link.connected:
            self._linked_monotonic_s = now_s
        late = now_s - self._linked_monotonic_s > PATIENCE_S
        return {FaultId.BROKER_UNREACHABLE: link.detail if late else None}
