"""`procunit engine build` as a child process: its progress as it comes, its failure as an error, its end on demand.

The builder takes much memory, may crash and cannot be interrupted within a step: none of that touches the daemon.
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
"""Run in the root directory: `-m` would look for packages in the daemon's first."""
SILENT_S = 120.0
"""The child says something twice a second, once its libraries are loaded; after this long without it is stuck."""
CANCEL_S = 3.0
"""How long a child that is asked to end may take."""

_POLL_S = 0.1
_MAX_LINE_BYTES = 64 << 10


@dataclass(frozen=True)
class EngineBuild:
    """What is to be built, and where it is kept."""

    bundle: Path
    precision: Precision
    kind: EngineKind
    cache: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `procunit`."""
        cache = str(self.cache.absolute())
        options = {"precision": self.precision, "kind": self.kind, "cache": cache, "progress": "json"}
        return (
            "engine",
            "build",
            str(self.bundle.absolute()),
            *(f"--{name}={value}" for name, value in options.items()),
        )


def build_in_child(
    build: EngineBuild, tell: Callable[[BuildProgress], None], stopping: Callable[[], bool]
) -> BuildResult:
    """Run the build to its end.

    Raises:
        ProcunitError: it failed, died or said nothing for too long.
        BuildCancelledError: `stopping` became true; the child is gone and has left nothing behind.
    """
    command = [*PROCUNIT, *build.arguments]
    with subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        try:
            last = _follow(child, tell, stopping)
            child.wait(CANCEL_S)
        except subprocess.TimeoutExpired:
            last = None
        finally:
            _end(child)
            if child.returncode < 0:
                EngineCache(build.cache).clear_partials()
    if isinstance(last, BuildResult) and child.returncode == 0:
        return last
    if isinstance(last, BuildFailure):
        raise ProcunitError(last.error, where=last.where, remedy=last.remedy)
    raise _died(build, child.returncode)


def _follow(
    child: subprocess.Popen[bytes], tell: Callable[[BuildProgress], None], stopping: Callable[[], bool]
) -> BuildLine | None:
    """Pass progress on until the child closes its end; the last line."""
    last: BuildLine | None = None
    for line in _lines(child, stopping):
        try:
            last = BUILD_LINE.validate_json(line)
        except ValidationError:
            continue  # a library that prints
        if isinstance(last, BuildProgress):
            tell(last)
    return last


def _lines(child: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> Iterator[bytes]:
    if child.stdout is None:
        return
    pending, heard_s = b"", time.monotonic()
    while True:
        if stopping():
            raise BuildCancelledError
        if time.monotonic() - heard_s > SILENT_S:
            raise ProcunitError(
                f"the engine's build has said nothing for {SILENT_S:.0f} s and was ended",
                remedy="Restart the device; if it repeats, run `procunit engine build` by hand to see where it stops",
            )
        if not select.select([child.stdout], [], [], _POLL_S)[0]:
            continue
        data = os.read(child.stdout.fileno(), _MAX_LINE_BYTES)
        if not data:
            return
        heard_s = time.monotonic()
        *lines, pending = (pending + data).split(b"\n")
        pending = pending[-_MAX_LINE_BYTES:]
        yield from lines


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a child that still runs to end, and kill one that does not."""
    for ask in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(ask)
            with suppress(subprocess.TimeoutExpired):
                child.wait(CANCEL_S)


def _died(build: EngineBuild, code: int) -> ProcunitError:
    by_hand = f"Run by hand: procunit {' '.join(build.arguments[:-1])}"
    if code == -signal.SIGKILL:
        return ProcunitError(
            "the engine's build was killed, as the kernel does when memory runs out",
            where=str(build.bundle),
            remedy=f"Stop other programs on the device, or add swap. {by_hand}",
        )
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ProcunitError(f"the engine's build {how} without a reason", where=str(build.bundle), remedy=by_hand)
