"""Whether the device makes progress, and how the service manager is told (sd_notify over NOTIFY_SOCKET).

The protocol is that of sd_notify(3), in plain Python: one datagram of KEY=VALUE lines to a unix socket.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping

_logger = logging.getLogger(__name__)


class Heartbeat:
    """Counts the steps of the thread that owns the engine; written by that thread alone.

    Waiting for a part is a step, so an idle line is progress; being stuck in a call is none.
    """

    def __init__(self) -> None:
        self.steps = 0

    def beat(self) -> None:
        """One step is done."""
        self.steps += 1


class ServiceNotifier:
    """Tells the service manager of the state; without one (no NOTIFY_SOCKET) it tells nobody.

    A socket name that starts with `@` is in the abstract namespace (unix(7)).
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment)

    @property
    def managed(self) -> bool:
        """Whether there is a manager, which starts the program again when it fails."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Start-up is over."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def extend(self, status: str, seconds: float) -> None:
        """The start, or the stop, goes on; the manager shall not lose patience for so many seconds from now."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            try:
                notify.sendto(text.encode(), self._address)
            except OSError as error:
                _logger.warning("the service manager cannot be told %s: %s", text.splitlines()[0], error.strerror)


class WatchdogFeeder:
    """Feeds the watchdog as long as the heartbeat goes on.

    `interval_s` is how often `feed` wants to be called: four times in the manager's patience (WATCHDOG_USEC) or more.
    """

    def __init__(self, notifier: ServiceNotifier, heartbeat: Heartbeat) -> None:
        self.interval_s = min(0.5, (notifier.watchdog_s or math.inf) / 4)
        self._notifier = notifier
        self._heartbeat = heartbeat
        self._fed_at_step = -1

    def feed(self) -> None:
        """Feed if there was a step since the last time."""
        if self._heartbeat.steps != self._fed_at_step:
            self._fed_at_step = self._heartbeat.steps
            self._notifier.alive()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The manager's patience in seconds (sd_watchdog_enabled(3)); None if it does not watch this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None
