"""The settings file: YAML -> validated settings, or every problem with file, line, key, value and remedy."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from edge.camera.source import camera_kinds, camera_type_from_kind
from edge.config.located_yaml import MAX_BYTES, KeyPath, LocatedYaml, YamlError, located_yaml_from_bytes
from edge.config.settings import Settings
from edge.errors import ProcunitError

_SHOWN_CHARACTERS = 60
_SECRET_WORDS = ("pass", "secret", "token", "credential")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a settings file; `key` is dotted, `value` is None where there is none to show."""

    file: Path
    line: int
    key: str
    value: str | None
    what: str
    remedy: str

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        shown = f" (it is {self.value})" if self.value is not None else ""
        return f"{self.file}:{self.line}: {subject}{self.what}{shown}. {self.remedy}"


class ConfigError(ProcunitError):
    """The settings file cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def settings_from_file(path: Path) -> Settings:
    """Read and check a settings file whole.

    Raises:
        ConfigError: anything is wrong with it.
    """
    document = _document(path)
    duplicates = tuple(
        Problem(path, line, _dotted(key), None, "the key stands twice", "Remove one of the two")
        for key, line in document.duplicates
    )
    if not isinstance(document.data, dict):
        what, remedy = (
            "the file holds no settings",
            "Write `section:` lines with indented `key: value` lines under them",
        )
        raise ConfigError((*duplicates, Problem(path, 1, "", None, what, remedy)))
    try:
        model = _model_with_camera(document.data.get("camera"))
    except ProcunitError as error:
        camera = _problem_of_kind(path, document, error)
        others = _problems_beside_camera(path, document)
        raise ConfigError(_sorted((*duplicates, camera, *others))) from error
    try:
        settings = model.model_validate(document.data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(_sorted((*duplicates, *_problems(path, document, model, error)))) from error
    if duplicates:
        raise ConfigError(duplicates)
    return settings


def _document(path: Path) -> LocatedYaml:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = "Name a settings file (YAML) that this user may read"
        raise ConfigError((Problem(path, 1, "", None, f"cannot be read: {error.strerror}", remedy),)) from error
    try:
        return located_yaml_from_bytes(data)
    except YamlError as error:
        raise ConfigError((Problem(path, error.line, "", None, error.what, error.remedy or ""),)) from error


def _model_with_camera(camera: object) -> type[Settings]:
    """The settings with the `camera` section of the kind of camera that the file names."""
    if not isinstance(camera, dict):
        return Settings
    kind = camera.get("kind")
    if not isinstance(kind, str):
        raise ProcunitError("no kind of camera is named", remedy=f"Installed kinds: {', '.join(camera_kinds())}")
    section = camera_type_from_kind(kind).settings_model
    field = Settings.model_fields["camera"]
    return create_model(
        "Settings", __base__=Settings, camera=(section, Field(title=field.title, description=field.description))
    )


def _problem_of_kind(path: Path, document: LocatedYaml, error: ProcunitError) -> Problem:
    key: KeyPath = ("camera", "kind")
    kind = _value_at(document.data, key)
    near = difflib.get_close_matches(str(kind), camera_kinds(), n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else error.remedy or ""
    return Problem(path, document.line(key), _dotted(key), _shown(key, kind), error.what, remedy)


def _problems_beside_camera(path: Path, document: LocatedYaml) -> tuple[Problem, ...]:
    try:
        Settings.model_validate(document.data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        return tuple(p for p in _problems(path, document, Settings, error) if not p.key.startswith("camera"))
    return ()


def _problems(path: Path, document: LocatedYaml, model: type[BaseModel], error: ValidationError) -> tuple[Problem, ...]:
    """One problem a key: where a value fits none of several alternatives, pydantic reports each of them."""
    by_key: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors():
        by_key.setdefault(_key_in_file(details, document), []).append(details)
    return tuple(_problem(path, document, model, key, details) for key, details in by_key.items())


def _key_in_file(details: ErrorDetails, document: LocatedYaml) -> KeyPath:
    key: KeyPath = tuple(details["loc"])
    if details["type"] == "missing":
        return key
    while key and key not in document.lines:
        key = key[:-1]
    return key


def _problem(
    path: Path, document: LocatedYaml, model: type[BaseModel], key: KeyPath, details: list[ErrorDetails]
) -> Problem:
    line, dotted = document.line(key), _dotted(key)
    first = details[0]
    names = [str(part) for part in key if not isinstance(part, int)]
    section = _section_at(model, names[:-1])
    value = _value_at(document.data, key)
    shown = None if isinstance(value, dict) else _shown(key, value)
    if first["type"] == "missing":
        return Problem(path, line, dotted, None, "the key is missing", f"Add it: {_description(section, names)}")
    if first["type"] == "extra_forbidden":
        return Problem(path, line, dotted, shown, "unknown key", _nearest(section, names[-1]))
    what = ", or ".join(_sentence(d["msg"]) for d in details)
    if first["type"] == "string_type" and isinstance(value, (int, float)):
        return Problem(path, line, dotted, shown, what, "Put the value in quotes")
    remedy = first.get("ctx", {}).get("remedy") or f"Give: {_description(section, names)}"
    return Problem(path, line, dotted, shown, what, str(remedy))


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


def _nearest(section: type[BaseModel] | None, key: str) -> str:
    known = sorted(section.model_fields) if section else []
    near = difflib.get_close_matches(key, known, n=1)
    if key.startswith("password") and "password_file" in known:
        return "Put the password into a file and name it in 'password_file'"
    return f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}"


def _value_at(data: object, key: KeyPath) -> object:
    for part in key:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _shown(key: KeyPath, value: object) -> str | None:
    if any(word in str(part).lower() for part in key for word in _SECRET_WORDS):
        return None
    text = "empty" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]


def _dotted(key: KeyPath) -> str:
    return ".".join(str(part) for part in key)


def _sorted(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.key)))
