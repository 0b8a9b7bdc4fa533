"""Downloads every wheel of requirements/device.lock, for each machine it is for, with its hash checked.

Fails if a package has no wheel for one of them: a device compiles nothing. A device without a package index installs
from the folder: pip install --no-index --find-links FOLDER --require-hashes -r requirements/device.lock

python -m tools.open_source.wheels build/wheels
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import click

from edge.cli.program import run_program
from edge.errors import ProcunitError
from edge.terminal import echo
from tools.open_source.lock import LOCK, TARGETS, Locked, Target, locked_packages

_NEWEST_GLIBC = {"3.10": 35, "3.11": 36, "3.12": 39, "3.13": 41}
"""Minor version of glibc 2 where each Python is the system's: Ubuntu 22.04, Debian 12, Ubuntu 24.04, Debian 13."""


def _platforms(target: Target) -> list[str]:
    names = ["manylinux1", "manylinux2010", "manylinux2014"]
    names += [f"manylinux_2_{minor}" for minor in range(5, _NEWEST_GLIBC[target.python] + 1)]
    return [f"--platform={name}_{target.machine}" for name in names]


def download(target: Target, packages: list[Locked], folder: Path) -> None:
    """Download the wheels of one machine.

    Raises:
        ProcunitError: a wheel is missing or its hash differs.
    """
    # pip evaluates markers for the Python that runs it, so it gets the lines that apply, without markers.
    with NamedTemporaryFile("w", suffix=".txt") as lines:
        lines.write("\n".join(package.line for package in packages))
        lines.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [
            "--require-hashes",
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={target.python}",
        ]
        command += [*_platforms(target)]
        command += [f"--dest={folder}", f"--requirement={lines.name}"]
        if subprocess.run(command, check=False).returncode:
            raise ProcunitError(
                f"not every wheel for Python {target.python} on {target.machine} could be downloaded",
                where=str(LOCK),
                remedy="See pip's message above; run `make lock` if a package has no such wheel",
            )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Download the wheels into FOLDER and print how many each machine needs."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = list(locked_packages(LOCK.read_text()))
    for target in TARGETS:
        needed = [package for package in packages if package.is_for(target)]
        download(target, needed, folder)
        echo(f"{target.machine} Python {target.python}: {len(needed)} wheels")
    total = list(folder.glob("*.whl"))
    echo(f"{len(total)} files, {sum(file.stat().st_size for file in total) / 1e6:.0f} MB in {folder}")


if __name__ == "__main__":
    run_program(main, "wheels")
