"""Runs a command as a program: how errors of every kind are shown."""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import TextIO

import click

from edge.errors import ProcunitError
from edge.plain_text import plain
from edge.system.log import PlainFormatter
from edge.terminal import echo, echo_lines

_NO_ARGS_IS_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""click 8.2's way to show the help of a command without arguments: its message is the help."""


def run_program(command: click.Command, name: str) -> None:
    """Run `command` with this process's arguments, and end the process unless it succeeds.

    A `ProcunitError` is printed in one line after `name` and exits with 2, as does an input that is too deep or too
    large; a KeyboardInterrupt exits with 130.
    """
    make_diagnostics_plain()
    try:
        code = command.main(standalone_mode=False)
    except ProcunitError as error:
        echo_lines(f"{name}: {error}", err=True, style="red")
        sys.exit(2)
    except (RecursionError, MemoryError, OverflowError) as error:
        what = f"an input is deeper or larger than this program can handle ({type(error).__name__})"
        echo(f"{name}: {what}", err=True, style="red")
        sys.exit(2)
    except click.ClickException as error:
        show_click_error(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        echo(f"{name}: stopped", err=True)
        sys.exit(130)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        echo_lines(end.code, err=True)
        sys.exit(1)
    if isinstance(code, int):  # of a `click.exceptions.Exit`
        sys.exit(code)


def show_click_error(error: click.ClickException) -> None:
    """What click prints about a wrong argument or a failure, with the usage, and with every name in it made plain."""
    if not isinstance(error, _NO_ARGS_IS_HELP):
        vars(error)["message"] = plain(error.message)  # click calls it final
    shown = io.StringIO()
    error.show(shown)
    echo_lines(shown.getvalue().rstrip("\n"), err=True)


def make_diagnostics_plain() -> None:
    """Tracebacks, warnings and log lines of libraries contain names from outside, too."""
    sys.excepthook = _show_traceback
    threading.excepthook = lambda failed: _show_traceback(failed.exc_type, failed.exc_value, failed.exc_traceback)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter("%(message)s"))
    warnings.showwarning = _show_warning


def _show_traceback(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    echo_lines("".join(traceback.format_exception(kind, error, where)).rstrip("\n"), err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    echo(f"{filename}:{lineno}: {category.__name__}: {message}", err=True)
