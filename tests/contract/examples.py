"""The examples that MES engineers copy from docs/examples/v1: `SCHEMA.CASE.json`."""

from __future__ import annotations

import json
from functools import cache

from tools.contract.schemas import EXAMPLES_DIR

NAMES = tuple(sorted(path.stem for path in EXAMPLES_DIR.iterdir()))


@cache
def _text(name: str) -> str:
    return (EXAMPLES_DIR / f"{name}.json").read_text(encoding="utf-8")


def example(name: str) -> dict[str, object]:
    """One example, by its file's name without `.json`; a copy of one's own."""
    data = json.loads(_text(name))
    assert isinstance(data, dict)
    return data


def request_examples() -> list[tuple[str, dict[str, object]]]:
    """Every example of a command, with the command's name."""
    names = [name for name in NAMES if name.startswith("command-")]
    return [(name.removeprefix("command-").partition(".")[0], example(name)) for name in names]
