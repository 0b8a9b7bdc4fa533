"""Writes THIRD_PARTY_NOTICES.md: licence and notices of every package that a device installs, from the wheels' files.

`make notices` downloads the wheels of requirements/device.lock first. The output depends on the lock alone.

python -m tools.open_source.notices build/wheels
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import click
from packaging.utils import NormalizedName, parse_wheel_filename

from edge.cli.program import run_program
from edge.errors import ProcunitError
from edge.terminal import echo
from tools.open_source.lock import LOCK, REPOSITORY, Locked, locked_packages

NOTICES = REPOSITORY / "THIRD_PARTY_NOTICES.md"

_HEAD = """\
# Third-party notices

Packages that a device installs beside Procunit Edge (`requirements/device.lock`: the base set with the extras `ort` and
`opencv`, all Python versions), with the licence files of their wheels. Written by `make notices`; do not edit.
Procunit Edge itself: [LICENSE](LICENSE), [NOTICE](NOTICE).

| Package | Version | Licence |
|---|---|---|
"""
_LICENCE_FILE = re.compile(r"(^|/)[^/]*(licen[cs]e|copying|notice|authors|copyright)[^/]*$", re.IGNORECASE)
_CODE = (".py", ".pyc", ".so", ".h", ".json")
_CLASSIFIER = "License :: "
_LONGEST = 100_000
"""Characters; ONNX Runtime's and OpenCV's lists of the code within them have 300 000 each."""


@dataclass(frozen=True)
class Notice:
    """What one version of a package says about its licence; `texts` by file name within the wheel."""

    name: NormalizedName
    version: str
    licence: str
    homepage: str
    texts: dict[str, str]


def notice_from_wheel(file: Path) -> Notice:
    """The licence that a wheel states, and its licence files."""
    name, version, _, _ = parse_wheel_filename(file.name)
    with ZipFile(file) as wheel:
        names = sorted(wheel.namelist())
        metadata = next(entry for entry in names if entry.endswith(".dist-info/METADATA"))
        head = Parser().parsestr(wheel.read(metadata).decode(), headersonly=True)
        files = [entry for entry in names if _LICENCE_FILE.search(entry) and not entry.lower().endswith(_CODE)]
        texts = _distinct({file: wheel.read(file).decode("utf-8", "replace") for file in files})
    classifiers = [value for value in head.get_all("Classifier", []) if value.startswith(_CLASSIFIER)]
    stated = head.get("License") or ""
    licence = (
        head.get("License-Expression")
        or ", ".join(sorted(value.rpartition(" :: ")[2] for value in classifiers))
        or (stated if "\n" not in stated else "")
    )
    urls = dict(value.split(", ", 1) for value in head.get_all("Project-URL", []))
    homepage = head.get("Home-page") or next(
        (urls[key] for key in sorted(urls) if key.lower() in ("homepage", "source", "repository", "source code")), ""
    )
    return Notice(name, str(version), licence.strip(), homepage, texts)


def _distinct(texts: dict[str, str]) -> dict[str, str]:
    """Each text once, under the first of its file names."""
    first: dict[str, str] = {}
    for name, text in texts.items():
        first.setdefault(text.replace("\r\n", "\n").strip(), name)
    return {name: text for text, name in first.items()}


def page_from_notices(notices: list[Notice]) -> str:
    """The whole page; a text appears once, however many packages have it, and a very long one is only named."""
    rows = [f"| {n.name} | {n.version} | {n.licence} |\n" for n in notices]
    shown: dict[str, str] = {}
    return _HEAD + "".join(rows) + "".join(_section(notice, shown) for notice in notices)


def _section(notice: Notice, shown: dict[str, str]) -> str:
    link = f", <{notice.homepage}>" if notice.homepage else ""
    head = f"\n## {notice.name} {notice.version}\n\n{notice.licence}{link}\n"
    if not notice.texts:
        return f"{head}\nThe wheel has no licence file.\n"
    return head + "".join(_licence_file(notice, name, text, shown) for name, text in notice.texts.items())


def _licence_file(notice: Notice, name: str, text: str, shown: dict[str, str]) -> str:
    if len(text) > _LONGEST:
        return f"\n{name}: {len(text.splitlines())} lines, installed with the package.\n"
    if text in shown:
        return f"\n{name}: the same as {shown[text]}.\n"
    shown[text] = f"{name} of {notice.name} {notice.version}"
    return f"\n{name}:\n\n````text\n{text}\n````\n"


def notices_from_folder(folder: Path, packages: list[Locked]) -> list[Notice]:
    """One notice per package and version of the lock, by name; licence files of all its wheels together.

    Raises:
        ProcunitError: a package has no wheel in the folder, or states no licence.
    """
    found: dict[tuple[NormalizedName, str], Notice] = {}
    for file in sorted(folder.glob("*.whl")):
        notice = notice_from_wheel(file)
        earlier = found.setdefault((notice.name, notice.version), notice)
        known = set(earlier.texts.values())
        earlier.texts.update({name: text for name, text in notice.texts.items() if text not in known})
    chosen = []
    for name, version in sorted({(package.name, package.version) for package in packages}):
        notice_found = found.get((name, version))
        if notice_found is None:
            raise ProcunitError(f"no wheel of {name} {version}", where=str(folder), remedy="Run: make wheels")
        if not notice_found.licence:
            raise ProcunitError(f"{name} {version} states no licence", where=str(folder), remedy="Name it by hand here")
        chosen.append(notice_found)
    return chosen


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder: Path) -> None:
    """Write THIRD_PARTY_NOTICES.md from the wheels in FOLDER."""
    notices = notices_from_folder(folder, list(locked_packages(LOCK.read_text())))
    NOTICES.write_text(page_from_notices(notices), encoding="utf-8")
    echo(f"{len(notices)} packages in {NOTICES.name}")


if __name__ == "__main__":
    run_program(main, "notices")
