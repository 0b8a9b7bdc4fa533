"""The service manager's side of sd_notify: a real unix socket to which the daemon under test sends."""

from __future__ import annotations

import socket
import time
from pathlib import Path

WATCHDOG_S = 1.0


class Manager:
    """The receiving end of the notify socket; `received` has all messages so far."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        self.received: list[str] = []

    def listen(self, timeout_s: float) -> str | None:
        """Wait for the next message; None if none came in time."""
        self._socket.settimeout(timeout_s)
        try:
            self.received.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return None
        return self.received[-1]

    def listen_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Wait for the next message that starts with the text."""
        deadline = time.monotonic() + timeout_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            message = self.listen(remaining_s)
            if message is not None and message.startswith(text):
                return message
        raise AssertionError(f"no message {text}: {self.received}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
