"""Incoming messages: a bounded queue in front of a thread that handles them, closed for a while after a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

MAX_WAITING = 64
MAX_PER_S = 200
"""More messages than this within a second are a flood: the connection is closed and no command is accepted for
`CLOSED_S` seconds."""
CLOSED_S = 60.0

_POLL_S = 0.2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as received from the broker; nothing about it is trusted.

    `response_topic` and `correlation` are properties of MQTT 5, None if the sender set none.
    """

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None
    correlation: bytes | None


class CommandInlet:
    """Queues messages from the network thread and calls `handle` with one after the other on the thread `commands`.

    `dropped` counts the messages lost to a full queue or a flood, and those too large to read.
    """

    def __init__(self, handle: Callable[[Incoming], None]) -> None:
        self.dropped = 0
        self._handle = handle
        self._waiting: Queue[Incoming] = Queue(MAX_WAITING)
        self._second = 0
        self._count_in_second = 0
        self._closed_until_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread after the message that it is handling."""
        self._stopping.set()
        self._thread.join(timeout_s)

    @property
    def open(self) -> bool:
        """Whether commands are accepted now; False for `CLOSED_S` seconds after a flood, or an oversize message."""
        return time.monotonic() >= self._closed_until_s

    def put(self, message: Incoming) -> bool:
        """Queue a message without blocking; False if this is a flood and the connection has to be closed."""
        now_s = time.monotonic()
        if int(now_s) != self._second:
            self._second, self._count_in_second = int(now_s), 0
        self._count_in_second += 1
        if self._count_in_second > MAX_PER_S:
            self._closed_until_s = now_s + CLOSED_S
            self.dropped += 1
            return False
        try:
            self._waiting.put_nowait(message)
        except Full:
            self.dropped += 1
        return True

    def refuse_oversize(self) -> None:
        """Accept no command for `CLOSED_S` seconds: a message too large to read would be sent again and again."""
        self._closed_until_s = time.monotonic() + CLOSED_S
        self.dropped += 1

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._waiting.get(timeout=_POLL_S)
            except Empty:
                continue
            try:
                self._handle(message)
            except Exception:  # the top of a thread: a failed message must not stop the next
                _logger.exception("a command on %.200s failed", message.topic)
