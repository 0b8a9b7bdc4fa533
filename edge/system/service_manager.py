"""Progress and state of the daemon, reported to the service manager (systemd).

The protocol is sd_notify(3), in plain Python: datagrams of KEY=VALUE lines to the unix socket NOTIFY_SOCKET.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping

from edge.plain_text import plain

_logger = logging.getLogger(__name__)


class Heartbeat:
    """Step counter of the inspect thread, which alone writes it; the watchdog is fed while it increases.

    Waiting for a part counts as a step, so an idle line makes progress; a call that hangs does not.
    """

    def __init__(self) -> None:
        self.steps = 0

    def beat(self) -> None:
        """Count one step."""
        self.steps += 1


class ServiceNotifier:
    """Sends the daemon's state to the service manager; does nothing without one (no NOTIFY_SOCKET).

    A socket name that starts with `@` is in the abstract namespace (unix(7)).
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment)

    @property
    def managed(self) -> bool:
        """True if there is a service manager, which restarts the program when it fails."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Report that start-up is complete."""
        self._send(f"READY=1\nSTATUS={plain(status)}")

    def status(self, status: str) -> None:
        """Set the status line that `systemctl status` shows."""
        self._send(f"STATUS={plain(status)}")

    def extend(self, status: str, seconds: float) -> None:
        """Set the status and extend the start (or stop) timeout to `seconds` from now."""
        self._send(f"STATUS={plain(status)}\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            try:
                notify.sendto(text.encode(), self._address)
            except OSError as error:
                _logger.warning("cannot send %s to the service manager: %s", text.splitlines()[0], error.strerror)


class WatchdogFeeder:
    """Feeds the watchdog as long as the heartbeat advances.

    Call `feed` every `interval_s`: at least four times within the watchdog timeout (WATCHDOG_USEC).
    """

    def __init__(self, notifier: ServiceNotifier, heartbeat: Heartbeat) -> None:
        self.interval_s = min(0.5, (notifier.watchdog_s or math.inf) / 4)
        self._notifier = notifier
        self._heartbeat = heartbeat
        self._fed_at_step = -1

    def feed(self) -> None:
        """Feed the watchdog if the heartbeat has advanced since the last call."""
        if self._heartbeat.steps != self._fed_at_step:
            self._fed_at_step = self._heartbeat.steps
            self._notifier.alive()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog timeout in seconds (sd_watchdog_enabled(3)); None if this process is not watched."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None
