"""Results sent again on request: in order of their number, and acknowledged in that order, too."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edge.mqtt.unsent import FLUSH_S
from edge.outbox.outbox import Outbox, StoredMessage

_PAGE = 50


@dataclass
class _InFlight:
    message: StoredMessage
    done: bool = False


class ResultReplay:
    """The replays requested from the outbox, over one connection; the next connection goes on where this one ended."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._page: deque[StoredMessage] = deque()
        self._in_flight: deque[_InFlight] = deque()
        self._last: StoredMessage | None = None

    def next(self) -> StoredMessage | None:
        """The next result to send again, which counts as in flight from now on; None if there is none."""
        if not self._page:
            self._page.extend(self._outbox.replays.page(self._last, _PAGE))
        if not self._page:
            if self._last is not None and not self._in_flight:
                self._outbox.flush(FLUSH_S)  # the next replay may get the id of the finished one
                self._last = None
            return None
        self._last = self._page.popleft()
        self._in_flight.append(_InFlight(self._last))
        return self._last

    def mark_done(self, message: StoredMessage) -> None:
        """Record that this result was acknowledged or given up; acknowledges in the outbox up to the first gap."""
        for sent in self._in_flight:
            if sent.message is message:
                sent.done = True
        last_done: StoredMessage | None = None
        while self._in_flight and self._in_flight[0].done:
            last_done = self._in_flight.popleft().message
        if last_done is not None:
            self._outbox.replays.acknowledge(last_done)
