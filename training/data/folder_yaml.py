"""A YAML file of a data folder as plain keys; problems are reported with file, line, key, value and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import ErrorDetails

from edge.config.located_yaml import MAX_BYTES, KeyPath, LocatedYaml, YamlError, located_yaml_from_bytes
from edge.errors import ProcunitError

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class FolderYaml:
    """The keys of a file, without duplicates; the values are not checked yet."""

    path: Path
    keys: dict[str, object]
    document: LocatedYaml

    def problem(self, key: KeyPath, value: object, what: str, remedy: str) -> ProcunitError:
        """An error for a key's value; `what` is the problem."""
        text = f"{'.'.join(str(part) for part in key)}: {what}{_shown(value)}"
        return ProcunitError(text, where=f"{self.path}:{self.document.line(key)}", remedy=remedy)

    def unknown_key(self, key: KeyPath, value: object, known: Collection[str]) -> ProcunitError:
        """An error for a key that is not in `known`; the most similar known key is suggested."""
        near = difflib.get_close_matches(str(key[-1]), known, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}"
        return self.problem(key, value, "unknown key", remedy)


def folder_yaml_from_file(path: Path, known: Collection[str]) -> FolderYaml:
    """Read a file of keys; an empty file has none.

    Raises:
        ProcunitError: the file cannot be read, is not a YAML mapping, or has a key twice; the message lists `known`.
    """
    document = _document(path)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise ProcunitError("holds no keys", where=str(path), remedy=f"Known keys: {', '.join(known)}")
    file = FolderYaml(path, data, document)
    for key, line in document.duplicates:
        what = f"{'.'.join(str(part) for part in key)}: the key appears twice"
        raise ProcunitError(what, where=f"{path}:{line}", remedy="Remove one of them")
    return file


def text_from_details(details: ErrorDetails) -> str:
    """pydantic's error message for a value, worded as part of a sentence about YAML."""
    what = details["msg"].removeprefix("Value error, ").replace(" after validation", "")
    what = what.replace("tuple", "list").replace("Tuple", "List")
    return what[:1].lower() + what[1:]


def _document(path: Path) -> LocatedYaml:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = "Make it a file that this user may read, or remove it"
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(path), remedy=remedy) from error
    try:
        return located_yaml_from_bytes(data)
    except YamlError as error:
        raise ProcunitError(error.what, where=f"{path}:{error.line}", remedy=error.remedy) from error


def _shown(value: object) -> str:
    """A value in parentheses; empty for lists and mappings."""
    if isinstance(value, (dict, list)):
        return ""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = "a number of thousands of digits"
    return f" (it is {text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '...'})"
