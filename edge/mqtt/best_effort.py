"""Messages sent best effort, after results and events: replies to commands, and metrics."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

MAX_REPLIES = 64


@dataclass(frozen=True, slots=True)
class BestEffortMessage:
    """A message that is lost if the connection breaks; `topic` includes the device's root."""

    topic: str
    payload: bytes
    correlation: bytes | None = None


class BestEffortQueue:
    """A bounded queue: a new reply pushes out the oldest one of a full queue, and only the newest metrics are kept."""

    def __init__(self, metrics_topic: str) -> None:
        self._metrics_topic = metrics_topic
        self._lock = threading.Lock()
        self._replies: deque[BestEffortMessage] = deque(maxlen=MAX_REPLIES)
        self._metrics: BestEffortMessage | None = None

    def put_reply(self, reply: BestEffortMessage) -> None:
        """Add a reply."""
        with self._lock:
            self._replies.append(reply)

    def put_metrics(self, payload: bytes) -> None:
        """Replace the metrics."""
        with self._lock:
            self._metrics = BestEffortMessage(self._metrics_topic, payload)

    def next(self) -> BestEffortMessage | None:
        """Remove and return the next message to send, replies first; None if the queue is empty."""
        with self._lock:
            if self._replies:
                return self._replies.popleft()
            metrics, self._metrics = self._metrics, None
            return metrics
