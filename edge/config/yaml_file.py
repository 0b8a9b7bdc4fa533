"""A YAML file read with a size limit, and its problems in one wording: file, line, key, value and remedy.

The settings file and the YAML files of a data folder share it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import ErrorDetails

from edge.config.located_yaml import MAX_BYTES, TOO_LARGE, KeyPath, LocatedYaml, YamlError, located_yaml_from_bytes
from edge.errors import ProcunitError
from edge.system.files import bytes_from_file

_SHOWN_CHARACTERS = 60
_SECRET_WORDS = ("pass", "secret", "token", "credential")


@dataclass(frozen=True)
class Problem:
    """One problem in a YAML file.

    `line` counts from 1; it is 0 if the file could not be read. `key` is dotted, and empty for the whole file. `value`
    is None if no value is shown.
    """

    file: Path
    line: int
    key: str
    value: str | None
    what: str
    remedy: str

    def __str__(self) -> str:
        return str(YamlFileError(self))


class YamlFileError(ProcunitError):
    """A YAML file cannot be used because of one problem."""

    def __init__(self, problem: Problem) -> None:
        subject = f"{problem.key}: " if problem.key else ""
        shown = f" (it is {problem.value})" if problem.value is not None else ""
        where = f"{problem.file}:{problem.line}" if problem.line else str(problem.file)
        super().__init__(f"{subject}{problem.what}{shown}", where=where, remedy=problem.remedy)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A YAML file that was read; its values are not checked yet."""

    path: Path
    document: LocatedYaml

    def problem(self, key: KeyPath, what: str, remedy: str) -> Problem:
        """A problem with a key, or with the nearest key above it that is in the file.

        The value is shown, except for a mapping, a nested list, and a key that sounds like a secret.
        """
        value = self._shown(key) if key in self.document.lines else None
        return Problem(self.path, self.document.line(key), _dotted(key), value, what, remedy)

    def unknown_key(self, key: KeyPath, known: Collection[str]) -> Problem:
        """A key that is not one of those known at its place; the nearest is suggested."""
        return self.problem(key, "unknown key", nearest_of(str(key[-1]), known))

    def duplicate_keys(self) -> tuple[Problem, ...]:
        """One problem for each key that appears twice in its mapping."""
        return tuple(
            Problem(self.path, line, _dotted(key), None, "the key appears twice", "Remove one of the two")
            for key, line in self.document.duplicates
        )

    def _shown(self, key: KeyPath) -> str | None:
        value = self.document.value(key)
        nested = isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
        secret = any(word in str(part).lower() for part in key for word in _SECRET_WORDS)
        if isinstance(value, dict) or nested or secret:
            return None
        try:
            text = "empty" if value is None else repr(value)
        except ValueError:  # Python prints no integer of thousands of digits
            text = "a number of thousands of digits"
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def yaml_file_from_path(path: Path, *, if_unreadable: str) -> YamlFile:
    """Read a file of at most `MAX_BYTES`; `if_unreadable` is the remedy if the system cannot read it.

    Raises:
        YamlFileError: the file cannot be read or is not plain YAML.
    """
    try:
        data = bytes_from_file(path, MAX_BYTES)
    except ProcunitError as error:
        line, remedy = (1, TOO_LARGE) if error.what.startswith("larger") else (0, if_unreadable)
        raise YamlFileError(Problem(path, line, "", None, error.what, remedy)) from error
    try:
        return YamlFile(path, located_yaml_from_bytes(data))
    except YamlError as error:
        raise YamlFileError(Problem(path, error.line, "", None, error.what, error.remedy or "")) from error


def nearest_of(name: str, known: Collection[str]) -> str:
    """A remedy for an unknown name: the known name nearest to it, or all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}"


def words_from_details(details: ErrorDetails) -> str:
    """What pydantic finds wrong with a value, worded for a YAML file: lower case first, "list" for "tuple"."""
    what = details["msg"].removeprefix("Value error, ").replace(" after validation", "")
    what = what.replace("tuple", "list").replace("Tuple", "List")
    return what[:1].lower() + what[1:]


def _dotted(key: KeyPath) -> str:
    return ".".join(str(part) for part in key)
