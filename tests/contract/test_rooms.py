"""Every room has a README, and the documents for developers name rooms and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERS = ("edge", "training", "export", "calibration")
PACKAGES = sorted(path.parent for container in CONTAINERS for path in (ROOT / container).rglob("__init__.py"))
DOCUMENTS = (
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/how-to-add.md", "docs/time.md")),
    *(ROOT / folder / "README.md" for folder in ("systemd", "tools", "tests")),
    *(package / "README.md" for package in PACKAGES),
)
FOLDERS = (*CONTAINERS, "systemd", "tools", "tests", "docs")
"""A path that starts with one of these is a path of the project."""
SUFFIXES = (".py", ".md", ".sh", ".toml")
"""A name without a folder is checked only if it ends with one of these: `orders.json` is a file of the device."""
PLACEHOLDER = re.compile(r"KIND|NAME")


def relative(path: Path) -> str:
    """The path as it is written in a document."""
    return path.relative_to(ROOT).as_posix()


def named_paths(text: str) -> set[str]:
    """Paths of the project in backticks, outside code blocks; commands, dotted names and placeholders are left out."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    words = {word for code in re.findall(r"`([^`\n]+)`", prose) for word in code.split()}
    paths = {word for word in words if re.fullmatch(r"[\w.@-]+(/[\w.@-]+)*/?", word) and not PLACEHOLDER.search(word)}
    return {path for path in paths if path.split("/")[0] in FOLDERS or path.endswith(SUFFIXES)}


def test_the_paths_of_a_text_are_found() -> None:
    text = "`edge/faults.py`, `python -m pytest tests/edge`, `cli/`, `edge/camera/KIND.py`\n  ```\n  `a.py`\n  ```\n"
    assert named_paths(text) == {"edge/faults.py", "tests/edge"}


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_every_package_has_a_readme(package: Path) -> None:
    readme = package / "README.md"
    assert readme.is_file()
    assert readme.read_text(encoding="utf-8").startswith(f"# `{relative(package)}`: ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    named = named_paths(document.read_text(encoding="utf-8"))
    assert named
    missing = [path for path in sorted(named) if not ((ROOT / path).exists() or (document.parent / path).exists())]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_room_of_the_layers_is_named_in_a_document() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib is part of Python 3.11 and later")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    assert {container for contract in contracts for container in contract["containers"]} >= {
        "edge",
        "training",
        "export",
    }
    overview = (ROOT / "docs/code-overview.md").read_text(encoding="utf-8")
    unnamed = []
    for contract in contracts:
        rooms = [room.strip() for layer in contract["layers"] for room in layer.split("|")]
        for container in contract["containers"]:
            readme = (ROOT / container / "README.md").read_text(encoding="utf-8")
            unnamed += [
                f"{container}.{room}"
                for room in rooms
                if not re.search(rf"`{room}(/|\.py)`", readme) and not re.search(rf"`{container}[./]{room}\b", overview)
            ]
    assert unnamed == []
