"""What the engine commands share: the option --cache, a progress bar on stderr, and stopping with Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.system.stop_signals import StopSignals
from edge.terminal import Console
from export.engines.runtimes import JobContext

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/.cache/procunit-edge/engines"),
    show_default=True,
    metavar="DIR",
    help="Where engines are kept; a daemon keeps them in `engines` below its state_dir.",
)


@contextmanager
def job_with_progress_bar(cache: Path) -> Iterator[JobContext]:
    """Show progress on stderr if it is a terminal; Ctrl-C also stops a build."""
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    with (
        StopSignals() as signals,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        abort_when_cancelled(),
    ):
        task = bar.add_task("starting", total=1.0)

        def on_progress(progress: BuildProgress) -> None:
            bar.update(task, completed=progress.fraction, description=progress.phase)

        yield JobContext(cache.expanduser(), on_progress, signals.wait)


@contextmanager
def abort_when_cancelled() -> Iterator[None]:
    """Turn a cancelled build into click's Abort."""
    try:
        yield
    except BuildCancelledError:
        raise click.Abort from None
