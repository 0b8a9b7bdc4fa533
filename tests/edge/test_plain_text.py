"""Text from outside is shown without effect, and the text of people stays."""

from __future__ import annotations

import io
import logging
import operator
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table

from edge.errors import ProcunitError
from edge.plain_text import plain
from edge.system.log import JournalFormatter, PlainFormatter
from edge.terminal import Console


@pytest.mark.parametrize(
    "text",
    [
        "Prüfling ÄÖÜß",
        "u\u0308ber",
        "検査 部品　1",
        "деталь",
        "قطعة",
        "ชิ้น",
        "½ µm ±3 °C “x” …",
        "😀",
        "a b/c\\d'\"[red]",
    ],
)
def test_text_of_every_script_stays(text: str) -> None:
    assert plain(text) == text


def test_what_a_terminal_obeys_or_a_person_cannot_see_is_replaced() -> None:
    obeyed = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))]
    turned = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    hidden = list("\u00ad\u034f\u115f\u180e\u200b\u200c\u200d\u2060\u2064\u2800\u3164\ufe0f\ufeff\uffa0\U000e0041")
    breaks = list("\u2028\u2029\x85\x0b\x0c\x1c")
    for character in (*obeyed, *turned, *hidden, *breaks, "\udc80", "\ue000", "\uffff"):
        assert plain(f"a{character}b") == "a?b", hex(ord(character))


@given(st.text())
def test_the_text_is_one_line_as_long_as_before_and_made_plain_once(text: str) -> None:
    made = plain(text)
    assert len(made) == len(text)
    assert len(made.splitlines()) <= 1
    assert plain(made) == made
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in made)


@given(st.text(), st.integers(1, 20))
def test_a_long_text_is_cut(text: str, limit: int) -> None:
    assert len(plain(text, limit)) <= limit


def test_an_error_for_people_is_one_plain_line() -> None:
    error = ProcunitError("not \x1b[2J an\nimage", where="a\u202e.png", remedy="Remove \x9b it")
    assert str(error) == "a?.png: not ?[2J an?image. Remove ? it"


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_a_console_shows_any_text_in_every_place_as_it_is_and_without_effect(text: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=10_000)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    console.print(text, table, f"[bold]{text}[/]")
    console.rule(text)
    with Progress(console=console) as progress:
        progress.add_task(text.replace("[", ""))
    shown = out.getvalue()
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" for c in shown)
    assert f"[bold]{plain(text)}[/]" in shown


class _Forged:
    def __index__(self) -> int:
        raise ValueError("a\n<0>forged\x1b[2J")


def _record(message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, __file__, 1, message, values, None)


def test_a_log_line_stays_one_line() -> None:
    record = _record("part %s", "P1\n<0>12:00:00 CRITICAL forged\x1b[2J\u2028x")
    assert PlainFormatter("%(message)s").format(record) == "part P1?<0>12:00:00 CRITICAL forged?[2J?x"
    assert JournalFormatter("%(message)s").format(record).startswith("<4>part P1?<0>")


def test_the_lines_of_a_traceback_cannot_be_taken_for_log_lines() -> None:
    with pytest.raises(ValueError, match="forged") as caught:
        operator.index(_Forged())
    record = _record("failed")
    record.exc_info = (caught.type, caught.value, caught.tb)
    first, *others = PlainFormatter("%(message)s").format(record).split("\n")
    assert first == "failed"
    assert all(line.startswith("| ") for line in others)
    assert "| <0>forged?[2J" in others
