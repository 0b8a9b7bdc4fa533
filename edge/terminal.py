"""The only ways to print: nothing from outside reaches the terminal as a command, a line of its own, or markup."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO

import click
from rich import console as rich_console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from edge.plain_text import plain


def echo(text: str = "", *, err: bool = False, style: str | None = None) -> None:
    """Print one line; `style` is a colour, shown in a terminal."""
    line = plain(text)
    click.echo(line if style is None else click.style(line, fg=style), err=err)


def echo_lines(text: str, *, err: bool = False, style: str | None = None) -> None:
    """Print a text whose line breaks are our own: what is from outside in it is in one line already."""
    for line in text.split("\n"):
        echo(line, err=err, style=style)


def echo_json(value: object, *, indent: int | None = None) -> None:
    """Print JSON in ASCII, which a program reads back unchanged."""
    click.echo(json.dumps(value, indent=indent))


class Console(rich_console.Console):
    """A rich console on stdout or stderr without markup: every text is shown as it is, in one line, made plain.

    Colours come from `style=`; `[bold]` within a text is shown as such. Lines of our own are printed one by one.
    """

    def __init__(
        self, *, stderr: bool = False, quiet: bool = False, width: int | None = None, file: IO[str] | None = None
    ) -> None:
        super().__init__(stderr=stderr, quiet=quiet, width=width, file=file, markup=False, emoji=False)

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: rich_console.JustifyMethod | None = None,
        overflow: rich_console.OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: rich_console.HighlighterType | None = None,
    ) -> Text:
        """Every text that is printed, every cell of a table and every title comes here."""
        return super().render_str(
            plain(text),
            style=style,
            justify=justify,
            overflow=overflow,
            emoji=False,
            markup=False,
            highlight=highlight,
            highlighter=highlighter,
        )

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is left of texts that were made into rich's own classes, such as a progress bar's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_plain_lines(segment.text), segment.style)


def styled(text: str, style: str) -> Text:
    """A cell of a table in a colour."""
    return Text(plain(text), style)


def _plain_lines(text: str) -> str:
    return text if text.isascii() and text.isprintable() else "\n".join(map(plain, text.split("\n")))
