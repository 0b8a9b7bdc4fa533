"""Incoming messages: a bounded queue in front of a thread that handles them, closed for a while after a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

from edge.faults import FaultId
from edge.worker import Problems, WorkerState, state_of_thread

MAX_WAITING = 64
MAX_PER_S = 200
"""More messages than this within a second are a flood: the connection is closed and no command is accepted for
`CLOSED_S` seconds."""
CLOSED_S, LONGEST_CLOSED_S = 60.0, 900.0
"""How long no command is accepted; twice as long each time that the cause is still there, and ends a connection again:
a retained message too large to read is sent at each subscription."""
STOP_S = 1.0

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

    name = "commands"
    stop_s = STOP_S

    def __init__(self, handle: Callable[[Incoming], None]) -> None:
        self.dropped = 0
        self._handle = handle
        self._waiting: Queue[Incoming] = Queue(MAX_WAITING)
        self._second = 0
        self._count_in_second = 0
        self._closed_s = 0.0
        self._closed_until_s = 0.0
        self._problem_until_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def state(self) -> WorkerState:
        """Whether the thread runs."""
        return state_of_thread(self._thread, stopping=self._stopping.is_set())

    @property
    def open(self) -> bool:
        """Whether commands are accepted now; False for a while after a flood, or an oversize message."""
        return time.monotonic() >= self._closed_until_s

    def problems(self) -> Problems:
        """Whether messages were dropped a short time ago, and how many at least since the start."""
        dropped = time.monotonic() < self._problem_until_s
        return {FaultId.COMMAND_FLOOD: f"{self.dropped} were dropped unread since the start" if dropped else None}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread after the message that it is handling; False if that takes too long."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def put(self, message: Incoming) -> bool:
        """Queue a message without blocking; False if this is a flood and the connection has to be closed."""
        now_s = time.monotonic()
        if now_s < self._closed_until_s:  # read before the connection ended
            self._drop(now_s)
            return False
        if int(now_s) != self._second:
            self._second, self._count_in_second = int(now_s), 0
        self._count_in_second += 1
        if self._count_in_second > MAX_PER_S:
            self._close(now_s)
            return False
        try:
            self._waiting.put_nowait(message)
        except Full:
            self._drop(now_s)
        return True

    def refuse_oversize(self) -> None:
        """Accept no command for a while: a message too large to read would be sent again and again."""
        self._close(time.monotonic())

    def _close(self, now_s: float) -> None:
        again = self._closed_s > 0 and now_s < self._closed_until_s + CLOSED_S
        self._closed_s = min(2 * self._closed_s, LONGEST_CLOSED_S) if again else CLOSED_S
        self._closed_until_s = now_s + self._closed_s
        self._drop(now_s)

    def _drop(self, now_s: float) -> None:
        self.dropped += 1
        self._problem_until_s = max(now_s + CLOSED_S, self._closed_until_s)

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
