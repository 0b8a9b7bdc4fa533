"""The dependencies that pyproject.toml names, with the comment that gives each its reason."""

from __future__ import annotations

import re
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.device import REPOSITORY

_COMMENTED = re.compile(r'"([A-Za-z][\w.-]*)[^"]*"[\],]*\s*#\s*(.*)$', re.MULTILINE)


def requirements_by_group() -> dict[str, list[Requirement]]:
    """Those of the base set under "dependencies", those of each extra under its name; without the product."""
    tomllib: Any = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")
    project = tomllib.loads(_text())["project"]
    groups = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    parsed = {group: [Requirement(text) for text in texts] for group, texts in groups.items()}
    return {group: [r for r in found if r.name != project["name"]] for group, found in parsed.items()}


def reasons() -> dict[str, set[str]]:
    """Package to the comments beside it."""
    found: dict[str, set[str]] = {}
    for name, reason in _COMMENTED.findall(_text().split("[project.scripts]")[0]):
        found.setdefault(canonicalize_name(name), set()).add(reason)
    return found


def _text() -> str:
    return (REPOSITORY / "pyproject.toml").read_text()
