"""Ids, numbers and texts as they go on the wire."""

from __future__ import annotations

import math

MAX_TEXT = 256
"""Characters of a text that comes from outside (part ids, error texts); longer ones are cut."""

_SIGNIFICANT_DIGITS = 6


def result_id(epoch: str, seq: int) -> str:
    """The id of a result: unique over all devices, and fit for a topic level and a file name."""
    return f"{epoch}-{seq}"


def rounded_score(score: float, threshold: float | None) -> float | None:
    """6 significant digits, on the same side of the threshold as the score; None for what is not finite."""
    if not math.isfinite(score):
        return None
    rounded = float(f"{score:.{_SIGNIFICANT_DIGITS}g}")
    if threshold is not None and (rounded >= threshold) != (score >= threshold):
        return score
    return rounded


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """A text from outside made fit for JSON: no lone surrogates, not too long."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
