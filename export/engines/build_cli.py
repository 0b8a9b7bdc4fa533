"""`procunit engine build`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import click

from edge.bundle.manifest import PRECISIONS, Precision
from edge.bundle.reader import open_without_signature_check
from edge.engine.build_progress import BuildFailure, BuildLine, BuildProgress, BuildResult
from edge.engine.cache import EngineCache
from edge.engine.settings import EngineKind
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError
from edge.system.stop_signals import StopSignals
from edge.terminal import echo, echo_json
from export.engines.build import BuildOutcome, OnProgress, WaitForStop, engine_from_bundle
from export.engines.command_line import abort_when_cancelled, cache_option, job_with_progress_bar


@click.command(name="build")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp16",
    show_default=True,
    help="Precision of the bundle's graphs to build.",
)
@cache_option
@click.option(
    "--kind",
    type=click.Choice([kind for kind in get_args(EngineKind) if kind != "ort"]),
    default="tensorrt",
    show_default=True,
    help="Library that builds the engine and later runs it.",
)
@click.option(
    "--progress",
    type=click.Choice(["bar", "json"]),
    default="bar",
    show_default=True,
    help="A bar for people, or one JSON object per line for programs.",
)
@click.option(
    "--bundle-id", metavar="SHA256", help="Refuse BUNDLE if it is another one; the daemon names the one in use."
)
def build(
    bundle: Path,
    precision: Precision,
    cache: Path,
    kind: EngineKind,
    progress: Literal["bar", "json"],
    bundle_id: str | None,
) -> None:
    """Build the TensorRT engine of BUNDLE for this device, unless it is in the cache.

    The daemon does this itself at its start. Build by hand to save the line that time, or to see why a build fails. An
    engine works only with this library version, this GPU and these graphs. Ctrl-C leaves nothing behind.

    \b
    Examples:
      procunit engine build bundle/
      procunit engine build bundle/ --precision int8 --cache /var/lib/procunit-edge/line-1/engines
    """

    def run(on_progress: OnProgress, wait: WaitForStop) -> BuildOutcome:
        engine_cache = EngineCache(cache.expanduser())
        content = open_without_signature_check(bundle)
        if bundle_id not in (None, content.bundle_id):
            raise ProcunitError(
                f"this is the bundle {content.bundle_id[:12]}, not {bundle_id}",
                where=str(bundle),
                remedy="It was exchanged after it was verified: copy the bundle again, and restart the daemon",
            )
        return engine_from_bundle(content, precision, library_from_kind(kind), engine_cache, on_progress, wait)

    if progress == "json":
        _with_json(run)
    else:
        _with_bar(run, cache)


Run = Callable[[OnProgress, WaitForStop], BuildOutcome]


def _with_bar(run: Run, cache: Path) -> None:
    started_s = time.monotonic()
    with job_with_progress_bar(cache) as job:
        outcome = run(job.on_progress, job.wait_for_stop)
    result = _result(outcome, started_s)
    echo(
        f"{result.result}: {result.size_bytes / 1e6:.1f} MB, "
        + ("already built" if result.cached else f"built in {result.seconds:.1f} s")
    )


def _with_json(run: Run) -> None:
    started_s = time.monotonic()
    reader_closed = False

    def on_progress(progress: BuildProgress) -> None:
        nonlocal reader_closed
        reader_closed = reader_closed or not _print_line(progress)

    with StopSignals() as signals, abort_when_cancelled():
        try:
            outcome = run(on_progress, lambda seconds: reader_closed or signals.wait(seconds))
        except ProcunitError as error:
            _print_line(BuildFailure(error=error.what, where=error.where, remedy=error.remedy))
            sys.exit(2)
    _print_line(_result(outcome, started_s))


def _print_line(line: BuildLine) -> bool:
    """Print one line; False if the reader has closed the pipe, so that the build ends when its daemon was killed."""
    try:
        echo_json(line.model_dump(mode="json"))
    except OSError:
        return False
    return True


def _result(outcome: BuildOutcome, started_s: float) -> BuildResult:
    plans = outcome.engine.plans
    return BuildResult(
        result=str(plans[0].root),
        cached=outcome.was_cached,
        size_bytes=sum(plan.entry.size_bytes for plan in plans),
        seconds=round(time.monotonic() - started_s, 1),
    )
