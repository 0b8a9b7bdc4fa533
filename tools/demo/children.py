"""Child processes that never outlive the demonstration: each leads a session of its own and is stopped with it."""

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
"""How a child is asked to end, and how long it may take, before it is killed."""
_DYING_S = 2.0
"""How long the killed rest of a session may take to be gone."""
_POLL_S = 0.05


class Stopped(Exception):  # noqa: N818  (no error: a person asked for it)
    """Ctrl-C or another signal asked the demonstration to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Children:
    """Starts child processes and, leaving the `with` block for any reason, ends them, the last one first.

    `announce` is told every command line before it runs. The handler of Ctrl-C, SIGTERM and SIGHUP only takes note:
    the signal is acted upon where the demonstration waits, so that it can't come between the start of a child and its
    entry in the list.
    """

    def __init__(self, announce: Callable[[list[str]], None]) -> None:
        self._announce = announce
        self._running: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []

    def __enter__(self) -> Children:
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
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
            click.ClickException: the command failed; it has said why.
        """
        process = self.start(arguments)
        while not has_ended(process):
            self.pause()
        self.stop(process)
        if process.returncode != 0:
            raise click.ClickException(f"`{' '.join(arguments[:2])}` ended with {process.returncode}; see above")

    def pause(self) -> None:
        """Wait a moment.

        Raises:
            Stopped: a signal came.
        """
        if self._signals:
            raise Stopped(self._signals[0])
        time.sleep(_POLL_S)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a child, if it has not ended, and whatever else its session still runs."""
        for number, grace_s in _GRACE_S:
            if not has_ended(process):
                _signal_group(process, number)
                self._wait(process, grace_s)
        # The child is not reaped yet, so its number still means its own group.
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self._running.remove(process)
        deadline = time.monotonic() + _DYING_S
        while _signal_group(process, 0) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _wait(self, process: subprocess.Popen[bytes], grace_s: float) -> None:
        """Wait for the end of a child; a second signal from an impatient person ends the wait."""
        deadline = time.monotonic() + grace_s
        while not has_ended(process) and time.monotonic() < deadline and len(self._signals) < 2:
            time.sleep(_POLL_S)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended; it is not reaped, so that its number stays its own."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a child's whole group; returns whether there was anybody (signal 0 only asks)."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
