"""A data folder's `dataset.yaml`: which photographs show one part, and how each label is augmented in training."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol, cast

import re2
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from edge.config.yaml_file import YamlFile, YamlFileError, words_from_details
from edge.errors import ProcunitError
from edge.record import Record
from training.data.folder_yaml import folder_yaml_from_file

DATASET_YAML = "dataset.yaml"
DEFAULT = "default"
"""The key for labels without settings."""
PART_GROUP = "part"
MAX_PATTERN_CHARACTERS = 200

_COLOUR = re.compile(r"hue|saturation|colou?r|hsv|tint", re.IGNORECASE)
_COLOUR_REFUSED = (
    "colour augmentation is refused: a defect's colour is part of its physics (discoloration distinguishes a burn or "
    "rust from dirt), camera and light at the line are fixed, and grey cameras see no colour"
)
_COLOUR_REMEDY = "Remove the key; exposure and light at the line vary brightness and contrast only"
_REMEDIES = {
    "part_id_pattern": rf"Give a regular expression that names the part, such as '(?P<{PART_GROUP}>T\d+)_'",
    "augmentation": f"Give settings such as {{direction: isotropic}} under a label or {DEFAULT}",
    "direction": "Isotropic defects may lie at any angle; directional ones follow the travel direction or the grain",
    "rotation_deg": "Directional labels need the largest rotation in degrees, 0 to 45; isotropic ones have no limit",
    "mirror": "Give [horizontal], [vertical] or both for a directional label; isotropic ones are mirrored anyway",
    "elastic": "Give the displacement as a share of the shorter side, 0 to 0.05",
    "brightness": "Give the largest relative change, 0 to 0.3",
    "contrast": "Give the largest relative change, 0 to 0.3",
}
_WORDS = {"missing": "the key is missing", "model_type": "no settings", "dict_type": "no keys"}
Mirror = Literal["horizontal", "vertical"]


class Pattern(Protocol):
    """What is used of a compiled pattern; RE2's own package has no types."""

    @property
    def groupindex(self) -> Mapping[str, int]:
        """The numbers of the named groups."""
        ...

    def search(self, text: str) -> Mapping[str, str | None] | None:
        """The first match in a text, whose groups are taken by name."""
        ...


Change = Annotated[float, Field(ge=0, le=0.3, allow_inf_nan=False, strict=True)]


class Augmentation(Record):
    """How far a label's photographs may be augmented and still show what the line can produce.

    `rotation_deg` is the limit of a directional label, None for rotations through 360 degrees; `mirror` lists the
    reflections of a directional label; `elastic` is the largest displacement as a share of the frame's shorter side;
    `brightness` and `contrast` are relative.
    """

    direction: Literal["isotropic", "directional"]
    rotation_deg: Annotated[float, Field(ge=0, le=45, allow_inf_nan=False, strict=True)] | None = None
    mirror: tuple[Mirror, ...] = ()
    elastic: Annotated[float, Field(ge=0, le=0.05, allow_inf_nan=False, strict=True)] = 0.0
    brightness: Change = 0.1
    contrast: Change = 0.1

    @model_validator(mode="after")
    def _fits_its_direction(self) -> Augmentation:
        if self.direction == "isotropic" and (self.rotation_deg is not None or self.mirror):
            what = "isotropic rotates through 360 degrees and mirrors, so it takes neither rotation_deg nor mirror"
            raise PydanticCustomError("direction", what)
        if self.direction == "directional" and self.rotation_deg is None:
            raise PydanticCustomError("rotation_deg", "a directional label needs rotation_deg")
        if self.rotation_deg == 0 and self.elastic > 0:
            raise PydanticCustomError("rotation_deg", "elastic bends count as rotations; rotation_deg 0 allows none")
        if len(set(self.mirror)) < len(self.mirror):
            raise PydanticCustomError("mirror", "a reflection appears twice in mirror")
        return self

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """The reflections to draw from: horizontal swaps left and right, vertical top and bottom."""
        return ("horizontal", "vertical") if self.direction == "isotropic" else self.mirror

    def in_words(self) -> str:
        """All settings as one line of text."""
        words: list[str] = [self.direction]
        if self.rotation_deg is None:
            words.append("rotation through 360 degrees, mirrored")
        else:
            words.append(f"rotation within {self.rotation_deg:g} degrees" if self.rotation_deg else "no rotation")
            words += [f"mirrored {_MIRRORED[mirror]}" for mirror in self.mirror]
        if self.elastic:
            words.append(f"elastic {_per_cent(self.elastic)}")
        return ", ".join([*words, f"brightness {_per_cent(self.brightness)}", f"contrast {_per_cent(self.contrast)}"])


_MIRRORED: dict[Mirror, str] = {"horizontal": "left to right", "vertical": "top to bottom"}

SAFE_AUGMENTATION = Augmentation(direction="directional", rotation_deg=5.0)
"""The settings of a label for which the file has none.

Parts at a line lie within five degrees anyway. No reflection: most defects have a direction (scoring, cracks along the
grain), and the line cannot produce one in another direction. Too little augmentation of an isotropic type only trains
less well; too much of a directional one trains on wrong examples.
"""


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """The content of `dataset.yaml`: `augmentations` by label or `default`, and `lines`, where each is."""

    path: Path = Path(DATASET_YAML)
    part_id_pattern: str | None = None
    augmentations: Mapping[str, Augmentation] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def augmentation_of(self, label: str) -> Augmentation:
        """The settings of a label (`good` or a defect type): the label's, else the default, else the safe ones."""
        return self.augmentations.get(label) or self.augmentations.get(DEFAULT) or SAFE_AUGMENTATION

    def check_labels(self, labels: Collection[str]) -> None:
        """Check that every label in the file has photographs.

        Raises:
            ProcunitError: the file has settings for another label; the message lists the labels of the dataset.
        """
        for name in self.augmentations:
            if name != DEFAULT and name not in labels:
                near = difflib.get_close_matches(name, labels, n=1)
                meant = f"Did you mean {near[0]!r}? " if near else ""
                raise ProcunitError(
                    f"augmentation.{name}: no photograph has the label {name!r}",
                    where=f"{self.path}:{self.lines.get(name, 1)}",
                    remedy=f"{meant}Labels here: {', '.join(sorted(labels))}",
                )


class _Keys(Record):
    part_id_pattern: Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS, strict=True)] | None = None
    augmentation: dict[str, Augmentation] = Field(default_factory=dict)

    @field_validator("part_id_pattern")
    @classmethod
    def _names_the_part(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        if set(pattern_from_text(pattern).groupindex) != {PART_GROUP}:
            raise ValueError(f"needs exactly one named group, (?P<{PART_GROUP}>...)")
        return pattern


def pattern_from_text(text: str) -> Pattern:
    """A regular expression of RE2: its time grows linearly with the name it searches, whatever the pattern is.

    Raises:
        ValueError: it is none; RE2 has no look-around and no reference back to a group.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return cast(Pattern, re2.compile(text, options))
    except re2.error as error:
        reason = error.args[0]
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not a regular expression of RE2: {words}") from error


def dataset_file_from_folder(root: Path) -> DatasetFile:
    """Read the file; without it, the defaults.

    Raises:
        ProcunitError: the file is not usable; the message names file, line, key and value.
    """
    path = root / DATASET_YAML
    if not path.exists():
        return DatasetFile(path)
    data, file = folder_yaml_from_file(path, _Keys.model_fields)
    try:
        keys = _Keys.model_validate(data)
    except ValidationError as error:
        raise _problem(file, error.errors(include_url=False)) from error
    lines = {label: file.document.line(("augmentation", label)) for label in keys.augmentation}
    return DatasetFile(path, keys.part_id_pattern, keys.augmentation, lines)


def _problem(file: YamlFile, errors: list[ErrorDetails]) -> YamlFileError:
    """The problem that explains most: a refused colour, then an unknown key, which may be the typo of a missing one."""
    first = min(errors, key=lambda details: (not _is_colour(details), details["type"] != "extra_forbidden"))
    key = first["loc"]
    if _is_colour(first):
        return YamlFileError(file.problem(key, _COLOUR_REFUSED, _COLOUR_REMEDY))
    if first["type"] == "extra_forbidden":
        return YamlFileError(file.unknown_key(key, (_Keys if len(key) == 1 else Augmentation).model_fields))
    remedy = _REMEDIES.get(first["type"]) or _REMEDIES[str(key[2] if len(key) > 2 else key[0])]
    return YamlFileError(file.problem(key, _WORDS.get(first["type"]) or words_from_details(first), remedy))


def _is_colour(details: ErrorDetails) -> bool:
    """Whether a key asks for colour augmentation; a label may have the name of a colour."""
    is_setting = details["type"] == "extra_forbidden"
    is_no_label = len(details["loc"]) == 2 and not isinstance(details["input"], (dict, Augmentation))
    return (is_setting or is_no_label) and _COLOUR.search(str(details["loc"][-1])) is not None


def _per_cent(share: float) -> str:
    return f"{100 * share:g} %"
