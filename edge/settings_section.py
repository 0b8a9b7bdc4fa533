"""Building blocks for the sections of the settings file: a strict frozen model, numbers, and checked paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from edge.record import Record


class Section(Record, allow_inf_nan=False):
    """Base class of the sections of the settings file; refuses unknown keys, infinity and NaN."""


Integer = Annotated[int, Field(strict=True)]
"""A whole number; YAML's `yes` and quoted text are refused."""
StrictNumber = Annotated[float, Field(strict=True)]
"""A number; YAML's `yes` and quoted text are refused."""


def text_of_integer(value: object) -> object:
    """Turn a whole number into text: for a choice of texts, some of which YAML reads as numbers."""
    return str(value) if type(value) is int else value


def _relative_to_settings(path: Path, info: ValidationInfo) -> Path:
    return Path(info.context["folder"]) / path if info.context else path


def _existing(path: Path) -> Path:
    if not os.path.exists(path):  # Path.exists would raise for a name that is too long
        raise PydanticCustomError("no_such_path", "there is no {path}", {"path": str(path)})
    if not os.access(path, os.R_OK):
        raise PydanticCustomError(
            "not_readable",
            "{path} may not be read by this user",
            {"path": str(path), "remedy": "Correct its owner or mode"},
        )
    return path


def _file(path: Path) -> Path:
    if not path.is_file():
        raise PydanticCustomError("not_a_file", "{path} is no file", {"path": str(path)})
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise PydanticCustomError("not_a_folder", "{path} is no folder", {"path": str(path)})
    return path


def _secret(path: Path) -> Path:
    status = path.stat()
    if status.st_mode & 0o070 and status.st_gid not in {0, os.getegid(), *os.getgroups()}:
        raise PydanticCustomError(
            "open_secret",
            "{path} may be read or changed by a group that is not this user's",
            {"path": str(path), "remedy": f"Run: chmod g= {path}"},
        )
    if status.st_mode & 0o007:
        raise PydanticCustomError(
            "open_secret",
            "{path} may be read by everybody on this device",
            {"path": str(path), "remedy": f"Run: chmod o= {path}"},
        )
    return path


FilePath = Annotated[Path, AfterValidator(_relative_to_settings)]
"""A path; a relative one is relative to the settings file (`folder` of the validation context)."""
ExistingPath = Annotated[FilePath, AfterValidator(_existing)]
ExistingFile = Annotated[ExistingPath, AfterValidator(_file)]
ExistingFolder = Annotated[ExistingPath, AfterValidator(_folder)]
SecretFile = Annotated[ExistingFile, AfterValidator(_secret)]
"""A file with a secret, which other users must not be able to read; a group of this user's, or root's, may."""
