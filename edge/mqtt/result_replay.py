"""Results that are sent again on request: one after the other by number, acknowledged without gaps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edge.outbox.outbox import Outbox, StoredMessage

_PAGE = 50
_FLUSH_S = 2.0


@dataclass
class _OnWay:
    message: StoredMessage
    settled: bool = False


class ResultReplay:
    """What one connection sends of the replays that the outbox holds; what it leaves open the next one sends."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._page: deque[StoredMessage] = deque()
        self._on_way: deque[_OnWay] = deque()
        self._last: StoredMessage | None = None

    def next(self) -> StoredMessage | None:
        """The next result to be sent again; it is on its way from now on."""
        if not self._page:
            self._page.extend(self._outbox.replayed(self._last, _PAGE))
        if not self._page:
            if self._last is not None and not self._on_way:
                self._outbox.flush(_FLUSH_S)  # a later replay may have the number of the one that is over
                self._last = None
            return None
        self._last = self._page.popleft()
        self._on_way.append(_OnWay(self._last))
        return self._last

    def settle(self, message: StoredMessage) -> None:
        """The broker has this result, or will never take it."""
        for sent in self._on_way:
            if sent.message is message:
                sent.settled = True
        done: StoredMessage | None = None
        while self._on_way and self._on_way[0].settled:
            done = self._on_way.popleft().message
        if done is not None:
            self._outbox.acknowledge_replayed(done)
