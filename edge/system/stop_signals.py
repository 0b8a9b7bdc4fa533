"""SIGTERM and SIGINT as something the main thread can wait for."""

from __future__ import annotations

import select
import signal
import socket
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Within it the first signal asks to stop; the second one ends the process at once.

    The signal's arrival wakes a socket (signal.set_wakeup_fd), as a handler may take no lock.
    """

    def __init__(self) -> None:
        self._asked = False
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def wait(self, timeout_s: float) -> bool:
        """Whether a stop was asked for, now or before the timeout."""
        until_s = time.monotonic() + timeout_s
        while not self._asked and (left_s := until_s - time.monotonic()) > 0:
            if select.select([self._receiver], [], [], left_s)[0]:
                self._receiver.recv(64)
        return self._asked

    def __enter__(self) -> StopSignals:
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._back_to_default()
        signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        self._back_to_default()

    @staticmethod
    def _back_to_default() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
