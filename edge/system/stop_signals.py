"""SIGTERM and SIGINT as a stop request that the main thread can wait for."""

from __future__ import annotations

import select
import signal
import socket
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Context manager: the first signal requests a stop, the second one ends the process at once.

    The signal wakes `wait` through a socket (signal.set_wakeup_fd), because a signal handler must not take a lock.
    """

    def __init__(self) -> None:
        self._requested = False
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s`; True as soon as a stop is requested."""
        until_s = time.monotonic() + timeout_s
        while not self._requested and (remaining_s := until_s - time.monotonic()) > 0:
            if select.select([self._receiver], [], [], remaining_s)[0]:
                self._receiver.recv(64)
        return self._requested

    def __enter__(self) -> StopSignals:
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._request_stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_default_handlers()
        signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
        self._restore_default_handlers()

    @staticmethod
    def _restore_default_handlers() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
