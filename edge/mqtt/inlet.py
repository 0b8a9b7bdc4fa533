"""What comes in from the broker: bounded, handled on a thread of its own, cut off when there is too much of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

MAX_WAITING = 64
MAX_PER_S = 200
"""More messages than this in a second are a flood: the connection ends, and commands are closed for a while."""
CLOSED_S = 60.0

_POLL_S = 0.2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came from the broker; nothing about it is trusted.

    `response_topic` and `correlation` are MQTT 5's, None where the sender gave none.
    """

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None
    correlation: bytes | None


class CommandInlet:
    """Takes messages from the network's thread and hands them to `handle`, one after the other, on its own thread.

    `dropped` tells how many were lost, because they came too fast or as a flood.
    """

    def __init__(self, handle: Callable[[Incoming], None]) -> None:
        self.dropped = 0
        self._handle = handle
        self._waiting: Queue[Incoming] = Queue(MAX_WAITING)
        self._second = 0
        self._in_second = 0
        self._closed_until_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the message in hand."""
        self._stopping.set()
        self._thread.join(timeout_s)

    @property
    def open(self) -> bool:
        """Whether commands are taken now; after a flood they are not for a while."""
        return time.monotonic() >= self._closed_until_s

    def put(self, message: Incoming) -> bool:
        """Take a message; returns at once, False if they come as a flood and the connection is to be ended."""
        now_s = time.monotonic()
        if int(now_s) != self._second:
            self._second, self._in_second = int(now_s), 0
        self._in_second += 1
        if self._in_second > MAX_PER_S:
            self._closed_until_s = now_s + CLOSED_S
            self.dropped += 1
            return False
        try:
            self._waiting.put_nowait(message)
        except Full:
            self.dropped += 1
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._waiting.get(timeout=_POLL_S)
            except Empty:
                continue
            try:
                self._handle(message)
            except Exception:  # the top of a thread: one message must not cost the next
                _logger.exception("a command on %.200s failed", message.topic)
