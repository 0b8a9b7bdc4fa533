"""The service manager's end of sd_notify: a real unix socket that a daemon under test talks to."""

from __future__ import annotations

import socket
import time
from pathlib import Path

WATCHDOG_S = 1.0


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        self.heard: list[str] = []

    def listen(self, timeout_s: float) -> str | None:
        """The next message, or None if none came in time."""
        self._socket.settimeout(timeout_s)
        try:
            self.heard.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return None
        return self.heard[-1]

    def listen_for(self, text: str, timeout_s: float = 15.0) -> str:
        """The first message from now on that starts with the text."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            message = self.listen(left_s)
            if message is not None and message.startswith(text):
                return message
        raise AssertionError(f"never heard {text}: {self.heard}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
