"""Child processes that never outlive the demonstration: each runs in its own session, which is stopped as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

import click

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0))
"""Signals that ask a child to end, each with the time to wait, before it is killed."""
_DYING_S = 2.0
"""How long to wait until the killed processes of a session have ended."""
_POLL_S = 0.05


class Stopped(Exception):  # noqa: N818  (not an error: a person asked for it)
    """Ctrl-C or another signal asked the demonstration to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Children:
    """Starts child processes and stops them, last one first, when the `with` block is left for any reason.

    `announce` is called with every command line before it runs. The handler for Ctrl-C, SIGTERM and SIGHUP only records
    the signal; `pause` acts on it. So a signal cannot arrive between the start of a child and its entry in the list.
    """

    def __init__(self, announce: Callable[[list[str]], None]) -> None:
        self._announce = announce
        self._running: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []

    def __enter__(self) -> Children:
        self._previous = {number: signal.signal(number, self._record_signal) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running.copy()):
            self.stop(process)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, arguments: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program; its output goes to the terminal, or into `log`."""
        self._announce(arguments)
        output = log.open("ab") if log else None
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        finally:
            if output:
                output.close()
        self._running.append(process)
        return process

    def run(self, arguments: list[str]) -> None:
        """Run a command to its end.

        Raises:
            Stopped: a signal came.
            click.ClickException: the command failed; its output contains the reason.
        """
        process = self.start(arguments)
        while not has_ended(process):
            self.pause()
        self.stop(process)
        if process.returncode != 0:
            raise click.ClickException(
                f"`{' '.join(arguments[:2])}` failed with exit status {process.returncode}; see above"
            )

    def pause(self) -> None:
        """Wait a moment.

        Raises:
            Stopped: a signal came.
        """
        if self._signals:
            raise Stopped(self._signals[0])
        time.sleep(_POLL_S)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a child, if it is still running, and everything else in its session."""
        for number, grace_s in _GRACE_S:
            if not has_ended(process):
                _signal_group(process, number)
                self._wait(process, grace_s)
        # The child is not reaped yet, so its process id still names its own group.
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self._running.remove(process)
        deadline = time.monotonic() + _DYING_S
        while _signal_group(process, 0) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _wait(self, process: subprocess.Popen[bytes], grace_s: float) -> None:
        """Wait for the end of a child; a second signal (an impatient person) ends the wait."""
        deadline = time.monotonic() + grace_s
        while not has_ended(process) and time.monotonic() < deadline and len(self._signals) < 2:
            time.sleep(_POLL_S)

    def _record_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended; it is not reaped, so that its process id is not reused."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a child's process group; returns whether the group exists (signal 0 only checks)."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
