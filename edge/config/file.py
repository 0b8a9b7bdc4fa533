"""The settings file: YAML -> validated settings, or every problem with file, line, key, value and remedy."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TypeGuard, cast, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edge.camera.source import CAMERAS, CameraType
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
from edge.kinds import Kinds
from edge.outputs.output import OUTPUTS, OutputType
from edge.settings_section import Section
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
    model, of_kinds = _model_of_kinds(file, data)
    problems, broken = (*duplicates, *of_kinds), {problem.key.partition(".")[0] for problem in of_kinds}
    try:
        settings = model.model_validate(data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        others = [details for details in error.errors() if details["loc"][0] not in broken]
        raise ConfigError((*problems, *_problems(file, model, others))) from error
    if problems:
        raise ConfigError(problems)
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


def _model_of_kinds(file: YamlFile, data: dict[str, object]) -> tuple[type[Settings], tuple[Problem, ...]]:
    """`Settings` with the sections of the kinds of camera and outputs that the file names, and what is wrong with them.

    A section whose kind has a problem keeps its general form.
    """
    problems: list[Problem] = []
    annotations: dict[str, object] = {}
    if isinstance(data.get("camera"), dict):
        camera = _settings_of_kind(file, CAMERAS, ("camera",), problems)
        annotations.update({} if camera is None else {"camera": camera})
    outputs = data.get("outputs")
    if isinstance(outputs, list) and outputs and all(isinstance(output, dict) for output in outputs):
        found = [_settings_of_kind(file, OUTPUTS, ("outputs", index), problems) for index in range(len(outputs))]
        annotations.update({} if None in found else {"outputs": tuple[tuple(found)]})  # type: ignore[misc]
    fields = {name: (annotation, _described(name)) for name, annotation in annotations.items()}
    model: type[Settings] = create_model("Settings", __base__=Settings, **fields)  # type: ignore[call-overload]
    return model, tuple(problems)


def _settings_of_kind(
    file: YamlFile, kinds: Kinds[CameraType] | Kinds[OutputType], section: KeyPath, problems: list[Problem]
) -> type[Section] | None:
    key: KeyPath = (*section, "kind")
    kind = file.document.value(key)
    try:
        if not isinstance(kind, str):
            raise ProcunitError(f"the {kinds.noun}'s kind is missing", remedy=kinds.remedy())  # noqa: TRY301
        return kinds.load(kind).settings_model
    except ProcunitError as error:
        near = difflib.get_close_matches(str(kind), kinds.names(), n=1)
        problems.append(file.problem(key, error.what, f"Did you mean {near[0]!r}?" if near else error.remedy or ""))
    return None


def _described(name: str) -> FieldInfo:
    """The field of `Settings` with this name, for another annotation."""
    field = Settings.model_fields[name]
    return cast(FieldInfo, Field(default=field.default, title=field.title, description=field.description))


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
    section = _section_at(model, key[: max((i for i, part in enumerate(key) if isinstance(part, str)), default=0)])
    if first["type"] == "missing":
        return file.problem(key, "the key is missing", f"Add it: {_description(section, names)}")
    if first["type"] == "extra_forbidden":
        return file.problem(key, "unknown key", _remedy_of_unknown(section, names[-1]))
    what = ", or ".join(words_from_details(d) for d in details)
    if first["type"] == "string_type" and isinstance(file.document.value(key), (int, float)):
        return file.problem(key, what, "Put the value in quotes")
    remedy = first.get("ctx", {}).get("remedy") or f"Give: {_description(section, names)}"
    return file.problem(key, what, str(remedy))


def _section_at(model: type[BaseModel], key: KeyPath) -> type[BaseModel] | None:
    """The model of the section at a key, None if there is none; a number is a place in a list."""
    found: object = model
    for part in key:
        if isinstance(part, int):
            found = dict(enumerate(get_args(found))).get(part)
        else:
            field = found.model_fields.get(part) if _is_section(found) else None
            found = field.annotation if field else None
    return found if _is_section(found) else None


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _description(section: type[BaseModel] | None, names: list[str]) -> str:
    field = section.model_fields.get(names[-1]) if section and names else None
    return field.description or "" if field else "a value that fits"


def _remedy_of_unknown(section: type[BaseModel] | None, key: str) -> str:
    known = sorted(section.model_fields) if section else []
    if key.startswith("password") and "password_file" in known:
        return "Put the password into a file and name it in 'password_file'"
    return nearest_of(key, known)
