"""Whatever goes wrong on the content of a bundle becomes one error for people that names the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ProcunitError


@contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """Turn what hostile or damaged content can cause in a parser or in arithmetic into a `ProcunitError`.

    Every known contradiction has a check with a text of its own; this is for what nobody thought of.

    Raises:
        ProcunitError: the block raised one, or an error of the kinds below.
    """
    try:
        yield
    except (ValueError, ArithmeticError, LookupError, TypeError, OSError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ProcunitError(
            f"it cannot be read: {type(error).__name__}{f': {reason}' if reason else ''}",
            where=str(path),
            remedy="Copy the bundle again",
        ) from error
