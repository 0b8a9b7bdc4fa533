"""Run `procunit engine build` as a child process: forward its progress, raise its failure, end it on demand.

The builder takes much memory, may crash, and cannot be interrupted within a step; in a child it cannot harm the daemon.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edge.bundle.manifest import Precision
from edge.engine.build_progress import (
    BUILD_LINE,
    BuildCancelledError,
    BuildFailure,
    BuildLine,
    BuildProgress,
    BuildResult,
)
from edge.engine.cache import EngineCache
from edge.engine.settings import EngineKind
from edge.errors import ProcunitError

PROCUNIT = (sys.executable, "-m", "edge.cli.main")
"""The child runs in `/`, as `-m` searches the current directory for packages first."""
SILENT_S = 120.0
"""Seconds without output after which the build counts as hung. It prints progress twice a second once its libraries are
loaded."""
CANCEL_S = 3.0
"""Seconds that a child may take to end after SIGTERM or SIGKILL, or after its last line."""

_POLL_S = 0.1
_MAX_LINE_BYTES = 64 << 10


@dataclass(frozen=True)
class EngineBuild:
    """The engine to build, and the cache directory to store it in.

    The child refuses a bundle whose id is not `bundle_id`; the id covers the hash of every graph.
    """

    bundle: Path
    precision: Precision
    kind: EngineKind
    cache: Path
    bundle_id: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command-line arguments of `procunit`."""
        cache = str(self.cache.absolute())
        options = {"precision": self.precision, "kind": self.kind, "cache": cache, "bundle-id": self.bundle_id}
        return (
            "engine",
            "build",
            str(self.bundle.absolute()),
            *(f"--{name}={value}" for name, value in options.items()),
            "--progress=json",
        )


def build_in_child(
    build: EngineBuild, on_progress: Callable[[BuildProgress], None], stopping: Callable[[], bool]
) -> BuildResult:
    """Run the build to its end; `on_progress` is called in this thread.

    Raises:
        ProcunitError: the build failed, crashed or printed nothing for `SILENT_S`.
        BuildCancelledError: `stopping` became true; the child has ended and its partial files are removed.
    """
    command = [*PROCUNIT, *build.arguments]
    child = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        last = _last_message(child, on_progress, stopping)
        child.wait(CANCEL_S)
    except subprocess.TimeoutExpired:
        last = None
    finally:
        code = _end(child)
        if code is not None and code < 0:
            EngineCache(build.cache).clear_partials()
    if isinstance(last, BuildResult) and code == 0:
        return last
    if isinstance(last, BuildFailure):
        raise ProcunitError(last.error, where=last.where, remedy=last.remedy)
    raise _error_from_exit_code(build, code, child.pid)


def _last_message(
    child: subprocess.Popen[bytes], on_progress: Callable[[BuildProgress], None], stopping: Callable[[], bool]
) -> BuildLine | None:
    """Forward progress until the child closes its stdout; returns its last message."""
    last: BuildLine | None = None
    for line in _lines(child, stopping):
        try:
            last = BUILD_LINE.validate_json(line)
        except ValidationError:
            continue  # not a message: a library printed to stdout
        if isinstance(last, BuildProgress):
            on_progress(last)
    return last


def _lines(child: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> Iterator[bytes]:
    if child.stdout is None:
        return
    pending, last_output_s = b"", time.monotonic()
    while True:
        if stopping():
            raise BuildCancelledError
        if time.monotonic() - last_output_s > SILENT_S:
            raise ProcunitError(
                f"the engine's build printed nothing for {SILENT_S:.0f} s and was ended",
                remedy="Restart the device; if it repeats, run `procunit engine build` by hand to see where it stops",
            )
        if not select.select([child.stdout], [], [], _POLL_S)[0]:
            continue
        data = os.read(child.stdout.fileno(), _MAX_LINE_BYTES)
        if not data:
            return
        last_output_s = time.monotonic()
        *lines, pending = (pending + data).split(b"\n")
        pending = pending[-_MAX_LINE_BYTES:]
        yield from lines


def _end(child: subprocess.Popen[bytes]) -> int | None:
    """End a child that still runs: SIGTERM, then SIGKILL; returns its exit code.

    None if it survives even that, because a call into a driver never returns; waiting for it would hang this thread.
    """
    if child.stdout is not None:
        child.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(CANCEL_S)
    return child.poll()


def _error_from_exit_code(build: EngineBuild, code: int | None, pid: int) -> ProcunitError:
    by_hand = f"To see why, run: procunit {' '.join(build.arguments[:-1])}"
    if code is None:
        return ProcunitError(
            f"the engine's build (process {pid}) hangs in a driver and cannot be ended",
            where=str(build.bundle),
            remedy="Restart the device",
        )
    if code == -signal.SIGKILL:
        return ProcunitError(
            "the engine's build was killed, as the kernel does when memory runs out",
            where=str(build.bundle),
            remedy=f"Stop other programs on the device, or add swap. {by_hand}",
        )
    end = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ProcunitError(f"the engine's build {end} without an error message", where=str(build.bundle), remedy=by_hand)
