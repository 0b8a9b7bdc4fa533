"""Text from outside (a file name, a key, a part id, a reply) made safe to show to a person, in a terminal or a log."""

from __future__ import annotations

import unicodedata

HIDDEN = "?"
"""What stands for a character that a person cannot see, or that a terminal would obey."""

_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_INVISIBLE = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),  # joiners, fillers, a blank
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),  # variation selectors
        ),
    )
)
"""Letters, marks and symbols that show nothing, although Unicode does not call them control or format characters."""


def plain(text: str, limit: int | None = None) -> str:
    """The text in one line: control, format, invisible and unknown characters become `?`; cut to `limit` characters.

    That takes the power from escape sequences (C0 and C1), line breaks of every kind and overrides of the writing
    direction. Letters, accents and signs of every script stay.
    """
    cut = text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(HIDDEN if c in _INVISIBLE or unicodedata.category(c) in _CATEGORIES else c for c in cut)
