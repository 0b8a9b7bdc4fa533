"""A YAML file of a data folder: its top-level keys, and the file to report problems with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edge.config.yaml_file import YamlFile, YamlFileError, yaml_file_from_path


def folder_yaml_from_file(path: Path, known: Collection[str]) -> tuple[dict[str, object], YamlFile]:
    """The top-level keys of a file, which may be empty; values are not checked yet.

    Raises:
        YamlFileError: the file cannot be read, is not plain YAML or no mapping (the text lists the `known` keys), or a
            key appears twice.
    """
    file = yaml_file_from_path(path, if_unreadable="Make it a file that this user may read, or remove it")
    keys = {} if file.document.data is None else file.document.data
    if not isinstance(keys, dict):
        raise YamlFileError(file.problem((), "the file contains no keys", f"Known keys: {', '.join(known)}"))
    for duplicate in file.duplicate_keys():
        raise YamlFileError(duplicate)
    return keys, file
