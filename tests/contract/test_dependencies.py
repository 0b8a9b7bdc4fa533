"""docs/dependencies.md has every dependency of pyproject.toml, with the reason that stands there."""

from __future__ import annotations

import re

from packaging.utils import canonicalize_name

from edge.system.telemetry import SWITCHES
from tests.support.device import REPOSITORY
from tests.support.pyproject import reasons, requirements_by_group

PAGE = (REPOSITORY / "docs/dependencies.md").read_text()
ROWS = {
    name: tuple(cell.strip() for cell in cells.split("|"))
    for name, cells in re.findall(r"^\| ([a-z][a-z0-9-]*) \| (.*) \|$", PAGE, re.MULTILINE)
}


def test_every_dependency_has_a_row_and_every_row_a_dependency() -> None:
    named = {canonicalize_name(r.name) for group in requirements_by_group().values() for r in group}
    assert ROWS.keys() == named
    assert all(len(cells) == 4 and all(cells) for cells in ROWS.values())


def test_the_reasons_are_pyproject_s() -> None:
    for name, comments in reasons().items():
        assert ROWS[name][0] in comments, name


def test_packages_that_would_report_are_marked() -> None:
    marked = {name for name, cells in ROWS.items() if cells[3] != "no"}
    assert marked == {switch.package for switch in SWITCHES} & ROWS.keys()
