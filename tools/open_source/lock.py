"""Reads requirements/device.lock, which `make lock` writes: what a device installs, every wheel with its hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "requirements/device.lock"


@dataclass(frozen=True)
class Target:
    """A machine that the lock is for; `machine` as in `platform.machine()`."""

    machine: str
    python: str

    @property
    def environment(self) -> dict[str, str]:
        """The values of environment markers on such a machine."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


TARGETS = (
    Target("aarch64", "3.10"),
    Target("aarch64", "3.12"),
    Target("x86_64", "3.10"),
    Target("x86_64", "3.11"),
    Target("x86_64", "3.12"),
    Target("x86_64", "3.13"),
)
"""JetPack 6 and 7 on a Jetson, and the Python versions of development machines."""


@dataclass(frozen=True)
class Locked:
    """One version of a package; `hashes` as pip takes them ("sha256:...")."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> NormalizedName:
        """The package's normalized name."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The pinned version."""
        return next(iter(self.requirement.specifier)).version

    def is_for(self, target: Target) -> bool:
        """Whether that machine installs it."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate({**target.environment, "extra": ""})

    @property
    def line(self) -> str:
        """The line of a requirements file, without the marker."""
        return " ".join((f"{self.name}=={self.version}", *(f"--hash={digest}" for digest in self.hashes)))


def locked_packages(text: str) -> Iterator[Locked]:
    """The packages of a lock file."""
    lines = (line.partition("#")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    for line in filter(None, lines):
        requirement, *hashes = line.split(" --hash=")
        yield Locked(Requirement(requirement.strip()), tuple(digest.strip() for digest in hashes))
