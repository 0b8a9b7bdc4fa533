"""The lock file, the notices and the bill of materials fit what pyproject.toml says a device installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution, version
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge.errors import ProcunitError
from tests.support.pyproject import requirements_by_group
from tools.open_source.lock import LOCK, REPOSITORY, TARGETS, Locked, Target, locked_packages
from tools.open_source.notices import notice_from_wheel, notices_from_folder, page_from_notices

PACKAGES = list(locked_packages(LOCK.read_text()))


@pytest.fixture(scope="module")
def device() -> list[Requirement]:
    """What pyproject.toml says a device installs."""
    groups = requirements_by_group()
    return [*groups["dependencies"], *groups["ort"], *groups["opencv"]]


def _wheel(folder: Path, name: str, metadata: str, files: dict[str, str]) -> Path:
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n{metadata}\n\nLicense: not this")
        for path, text in files.items():
            wheel.writestr(path, text)
    return file


def _locked(name: str) -> Locked:
    return next(locked_packages(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n    # via nothing\n"))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_machine_gets_each_requirement_once_and_in_its_range(target: Target, device: list[Requirement]) -> None:
    installed = [package for package in PACKAGES if package.is_for(target)]
    versions = {package.name: package.version for package in installed}
    assert len(versions) == len(installed)
    for requirement in device:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_every_package_has_hashes_and_one_version() -> None:
    assert PACKAGES
    for package in PACKAGES:
        assert len(package.requirement.specifier) == 1
        assert package.hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in package.hashes)


def test_the_lock_names_its_command_and_no_index() -> None:
    text = LOCK.read_text()
    command = re.search(r"^#    (uv pip compile .*)$", text, re.MULTILINE)
    assert command is not None
    recipe = (REPOSITORY / "Makefile").read_text().replace("\\\n\t\t", "").replace("--quiet ", "")
    assert command[1] in recipe
    assert not re.search(r"://|--index|--extra-index|--find-links", text)


def test_the_notices_have_every_package_of_the_lock() -> None:
    page = (REPOSITORY / "THIRD_PARTY_NOTICES.md").read_text()
    rows = re.findall(r"^\| ([\w.-]+) \| ([0-9][\w.]*) \| [^|]+ \|$", page, re.MULTILINE)
    assert rows == sorted({(package.name, package.version) for package in PACKAGES})


def test_a_notice_has_the_licence_that_the_wheel_states_and_each_text_once(tmp_path: Path) -> None:
    files = {"a/LICENSE": "free\r\n", "a/licenses/COPYING.txt": "free", "a/NOTICE": "thanks", "a/license.py": "code"}
    notice = notice_from_wheel(_wheel(tmp_path, "a", "License-Expression: MIT", files))
    assert (notice.name, notice.version, notice.licence) == ("a", "1.0", "MIT")
    assert notice.texts == {"a/LICENSE": "free", "a/NOTICE": "thanks"}


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\nLicense: other", "MIT"),
        ("License: whole text\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: 3-Clause BSD License", "3-Clause BSD License"),
    ],
)
def test_the_licence_is_the_most_exact_statement(tmp_path: Path, metadata: str, licence: str) -> None:
    assert notice_from_wheel(_wheel(tmp_path, "a", metadata, {})).licence == licence


def test_a_shared_text_is_shown_once_and_a_very_long_one_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _wheel(tmp_path, name, "License: MIT", {f"{name}/LICENSE": "free", f"{name}/NOTICE": f"{name}\n" * 60_000})
    page = page_from_notices(notices_from_folder(tmp_path, [_locked("b"), _locked("a")]))
    assert page.count("\nfree\n") == 1
    assert "b/LICENSE: the same as a/LICENSE of a 1.0." in page
    assert "a/NOTICE: 60000 lines, installed with the package." in page
    assert page.index("## a 1.0") < page.index("## b 1.0")


def test_a_package_without_wheel_or_licence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match=r"no wheel of a 1\.0"):
        notices_from_folder(tmp_path, [_locked("a")])
    _wheel(tmp_path, "a", "", {})
    with pytest.raises(ProcunitError, match=r"a 1\.0 states no licence"):
        notices_from_folder(tmp_path, [_locked("a")])


def test_the_bill_of_materials_follows_the_cyclonedx_schema(tmp_path: Path) -> None:
    """Of an environment with one package, by the command of `make sbom`, which installs the whole lock."""
    pytest.importorskip("cyclonedx_py", reason="needs cyclonedx-bom (release extra)")
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib[json-validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    output, device = tmp_path / "sbom.cdx.json", tmp_path / "device"
    venv.create(device)
    metadata = distribution("click").locate_file(f"click-{version('click')}.dist-info")
    shutil.copytree(str(metadata), next(device.glob("lib/python*/site-packages")) / Path(str(metadata)).name)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(device / "bin/python")]
    command += ["--pyproject", "pyproject.toml"]
    command += ["--mc-type", "application", "--spec-version", "1.6", "--output-format", "JSON"]
    subprocess.run([*command, "--output-file", str(output)], cwd=REPOSITORY, check=True)
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    text = output.read_text()
    assert validator.validate_str(text) is None
    assert f"pkg:pypi/click@{version('click')}" in text
    assert validator.validate_str(text.replace('"components"', '"parts"')) is not None


def test_requirements_are_read_with_their_markers() -> None:
    marked = Requirement("a==1 ; python_full_version < '3.11'")
    package = Locked(marked, ())
    assert [package.is_for(target) for target in TARGETS] == [target.python == "3.10" for target in TARGETS]
