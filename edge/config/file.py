"""The settings file: YAML -> validated settings, or every problem with file, line, key, value and remedy."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from edge.camera.source import camera_kinds, camera_type_from_kind
from edge.config.located_yaml import KeyPath
from edge.config.settings import Settings
from edge.config.yaml_file import (
    Problem,
    YamlFile,
    YamlFileError,
    nearest_of,
    words_from_details,
    yaml_file_from_path,
)
from edge.errors import ProcunitError
from edge.system.access import refuse_if_anybody_may_write


class ConfigError(ProcunitError):
    """The settings file cannot be used; `problems` lists all its problems, in the order of the lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.key)))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def settings_from_file(path: Path) -> Settings:
    """Read a settings file and check all of it.

    Raises:
        ConfigError: the file has at least one problem, or everybody may change it.
    """
    _refuse_if_anybody_may_write(path)
    try:
        file = yaml_file_from_path(path, if_unreadable="Name a settings file (YAML) that this user may read")
    except YamlFileError as error:
        raise ConfigError((error.problem,)) from error
    duplicates, data = file.duplicate_keys(), file.document.data
    if not isinstance(data, dict):
        remedy = "Write `section:` lines with indented `key: value` lines under them"
        raise ConfigError((*duplicates, file.problem((), "the file contains no settings", remedy)))
    try:
        model = _model_with_camera(data.get("camera"))
    except ProcunitError as error:
        others = _problems_outside_camera(file)
        raise ConfigError((*duplicates, _problem_of_camera_kind(file, error), *others)) from error
    try:
        settings = model.model_validate(data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError((*duplicates, *_problems(file, model, error.errors()))) from error
    if duplicates:
        raise ConfigError(duplicates)
    return settings


def _refuse_if_anybody_may_write(path: Path) -> None:
    """The file names the keys that are trusted: whoever may change it decides everything."""
    try:
        with path.open("rb") as stream:
            refuse_if_anybody_may_write(stream.fileno(), path)
    except OSError:
        return  # whoever reads it says what is wrong with it
    except ProcunitError as error:
        raise ConfigError((Problem(path, 0, "", None, error.what, error.remedy or ""),)) from error


def _model_with_camera(camera: object) -> type[Settings]:
    """`Settings` with the `camera` section of the camera kind that the file names."""
    if not isinstance(camera, dict):
        return Settings
    kind = camera.get("kind")
    if not isinstance(kind, str):
        raise ProcunitError("the camera's kind is missing", remedy=f"Installed kinds: {', '.join(camera_kinds())}")
    section = camera_type_from_kind(kind).settings_model
    field = Settings.model_fields["camera"]
    return create_model(
        "Settings", __base__=Settings, camera=(section, Field(title=field.title, description=field.description))
    )


def _problem_of_camera_kind(file: YamlFile, error: ProcunitError) -> Problem:
    key: KeyPath = ("camera", "kind")
    near = difflib.get_close_matches(str(file.document.value(key)), camera_kinds(), n=1)
    return file.problem(key, error.what, f"Did you mean {near[0]!r}?" if near else error.remedy or "")


def _problems_outside_camera(file: YamlFile) -> tuple[Problem, ...]:
    try:
        Settings.model_validate(file.document.data, context={"folder": file.path.absolute().parent})
    except ValidationError as error:
        return _problems(file, Settings, [details for details in error.errors() if details["loc"][0] != "camera"])
    return ()


def _problems(file: YamlFile, model: type[BaseModel], errors: list[ErrorDetails]) -> tuple[Problem, ...]:
    """One problem per key: if a value fits none of several alternatives, pydantic reports one error for each."""
    by_key: dict[KeyPath, list[ErrorDetails]] = {}
    for details in errors:
        by_key.setdefault(_key_in_file(details, file), []).append(details)
    return tuple(_problem(file, model, key, details) for key, details in by_key.items())


def _key_in_file(details: ErrorDetails, file: YamlFile) -> KeyPath:
    key: KeyPath = tuple(details["loc"])
    if details["type"] == "missing":
        return key
    while key and key not in file.document.lines:
        key = key[:-1]
    return key


def _problem(file: YamlFile, model: type[BaseModel], key: KeyPath, details: list[ErrorDetails]) -> Problem:
    first = details[0]
    names = [str(part) for part in key if not isinstance(part, int)]
    section = _section_at(model, names[:-1])
    if first["type"] == "missing":
        return file.problem(key, "the key is missing", f"Add it: {_description(section, names)}")
    if first["type"] == "extra_forbidden":
        return file.problem(key, "unknown key", _remedy_of_unknown(section, names[-1]))
    what = ", or ".join(words_from_details(d) for d in details)
    if first["type"] == "string_type" and isinstance(file.document.value(key), (int, float)):
        return file.problem(key, what, "Put the value in quotes")
    remedy = first.get("ctx", {}).get("remedy") or f"Give: {_description(section, names)}"
    return file.problem(key, what, str(remedy))


def _section_at(model: type[BaseModel], names: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = model
    for name in names:
        field = section.model_fields.get(name) if section else None
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return section


def _description(section: type[BaseModel] | None, names: list[str]) -> str:
    field = section.model_fields.get(names[-1]) if section and names else None
    return field.description or "" if field else "a value that fits"


def _remedy_of_unknown(section: type[BaseModel] | None, key: str) -> str:
    known = sorted(section.model_fields) if section else []
    if key.startswith("password") and "password_file" in known:
        return "Put the password into a file and name it in 'password_file'"
    return nearest_of(key, known)
