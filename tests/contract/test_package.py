"""The wheel and the source archive, as setuptools builds them from a copy of the tree without any download."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.device import REPOSITORY

pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 (dev extra)")

ROOMS = {"edge", "training", "export", "calibration"}
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
BUILD = """
import sys
from setuptools.build_meta import build_sdist, build_wheel

output = sys.argv[1]  # the builds overwrite sys.argv
build_wheel(output)
build_sdist(output)
"""
DIST_INFO = "procunit_edge-0.1.0.dist-info"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built archives."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in (*ROOMS, "tools", "tests"):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(REPOSITORY / file, source)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(output)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def wheel(built: Path) -> Iterator[ZipFile]:
    """The wheel."""
    with ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


@pytest.fixture
def metadata(wheel: ZipFile) -> Message:
    """The wheel's METADATA."""
    return Parser().parsestr(wheel.read(f"{DIST_INFO}/METADATA").decode())


def test_the_wheel_has_the_four_rooms_and_nothing_else(wheel: ZipFile) -> None:
    assert {name.partition("/")[0] for name in wheel.namelist()} == {*ROOMS, DIST_INFO}


def test_every_module_is_in_the_wheel(wheel: ZipFile) -> None:
    modules = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert {name for name in wheel.namelist() if not name.startswith(DIST_INFO)} == modules


def test_the_rooms_are_marked_as_typed(wheel: ZipFile) -> None:
    assert {f"{room}/py.typed" for room in ROOMS} <= set(wheel.namelist())


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_the_licence_travels_with_both_archives(built: Path, wheel: ZipFile, name: str) -> None:
    text = (REPOSITORY / name).read_bytes()
    assert wheel.read(f"{DIST_INFO}/licenses/{name}") == text
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        member = archive.extractfile(f"procunit_edge-0.1.0/{name}")
        assert member is not None
        assert member.read() == text


def test_the_metadata_names_licence_authors_and_python(metadata: Message) -> None:
    assert metadata["Name"] == "procunit-edge"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Author"] == "Procunit Edge maintainers"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "mqtt" in metadata["Keywords"].split(",")
    classifiers = set(metadata.get_all("Classifier", []))
    assert classifiers >= {f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)}
    assert classifiers >= {
        "Intended Audience :: Manufacturing",
        "Operating System :: POSIX :: Linux",
        "Typing :: Typed",
    }
    assert not any(value.startswith("License ::") for value in classifiers)  # not beside a licence expression
    extras = {"ort", "opencv", "tensorrt", "offline", "device-tests", "release", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras


def test_the_command_is_installed(wheel: ZipFile) -> None:
    assert "procunit = edge.cli.main:main" in wheel.read(f"{DIST_INFO}/entry_points.txt").decode()
