"""Ids, numbers and texts as they are encoded in messages."""

from __future__ import annotations

import math

MAX_TEXT = 256
"""Maximum length in characters of a text from outside (part ids, error texts); a longer one is cut."""

_SIGNIFICANT_DIGITS = 6


def result_id(epoch: str, seq: int) -> str:
    """The id of a result: unique across all devices, valid as a topic level and as a file name."""
    return f"{epoch}-{seq}"


def rounded_score(score: float, threshold: float | None) -> float | None:
    """Round to 6 significant digits, except if that would cross the threshold; None for NaN and infinity."""
    if not math.isfinite(score):
        return None
    rounded = float(f"{score:.{_SIGNIFICANT_DIGITS}g}")
    if threshold is not None and (rounded >= threshold) != (score >= threshold):
        return score
    return rounded


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Make a text from outside valid for JSON: cut to `limit` characters, lone surrogates replaced by `?`."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
