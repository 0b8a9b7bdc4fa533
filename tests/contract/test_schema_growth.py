"""Within v1 the wire only grows: against the schemas frozen in v1_baseline, with a checker that sees every breakage."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.schema_growth import Direction, Schema, breakages
from tools.contract.schemas import MODELS, SCHEMAS_DIR, schema_text

BASELINE = Path(__file__).parent / "v1_baseline"


def direction_of(name: str) -> Direction:
    return "in" if name.startswith("command-") else "out"


@pytest.mark.parametrize("name", MODELS)
def test_the_published_schema_is_the_models(name: str) -> None:
    stored = (SCHEMAS_DIR / f"{name}.json").read_text(encoding="utf-8")
    assert stored == schema_text(MODELS[name]), "run: python -m tools.contract"


def test_no_schema_is_published_that_has_no_model() -> None:
    assert {path.stem for path in SCHEMAS_DIR.iterdir()} == set(MODELS)


@pytest.mark.parametrize("name", sorted(path.stem for path in BASELINE.iterdir()))
def test_v1_only_grows(name: str) -> None:
    frozen = json.loads((BASELINE / f"{name}.json").read_text(encoding="utf-8"))
    assert name in MODELS, "a payload of v1 is gone"
    assert breakages(frozen, json.loads(schema_text(MODELS[name])), direction_of(name)) == []


def test_the_baseline_has_every_payload_of_the_first_v1() -> None:
    assert {path.stem for path in BASELINE.iterdir()} >= {"result", "event", "status", "metrics", "reply"}


BASE: Schema = {
    "$defs": {"Colour": {"enum": ["red", "green"], "type": "string"}},
    "type": "object",
    "required": ["seq"],
    "properties": {
        "seq": {"type": "integer", "minimum": 0, "maximum": 100},
        "name": {"anyOf": [{"type": "string", "maxLength": 256, "pattern": "^a"}, {"type": "null"}]},
        "colour": {"$ref": "#/$defs/Colour"},
        "scores": {"type": "object", "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
        "limits": {"type": "object", "patternProperties": {"^a": {"type": "number"}}},
        "why": {"type": "array", "items": {"type": "object", "properties": {"text": {"type": "string"}}}},
        "kind": {"const": "a", "type": "string"},
    },
}


def changed(change: Callable[[dict[str, Any], Schema], object]) -> Schema:
    """The base after a change of its properties, or of the whole."""
    new = copy.deepcopy(BASE)
    change(new["properties"], new)
    return new


BREAKS_BOTH: dict[str, Callable[[dict[str, Any], Schema], object]] = {
    "a field removed": lambda fields, _: fields.pop("name"),
    "a field of a list's items removed": lambda fields, _: fields["why"]["items"]["properties"].pop("text"),
    "a type changed": lambda fields, _: fields["seq"].update(type="string"),
    "null no longer possible": lambda fields, _: fields["name"].update(anyOf=fields["name"]["anyOf"][:1]),
    "a type of a map's values removed": lambda fields, _: fields["scores"].update(
        additionalProperties={"type": "null"}
    ),
    "a value of an enumeration removed": lambda _, new: new["$defs"]["Colour"].update(enum=["red"]),
    "a constant changed": lambda fields, _: fields["kind"].update(const="b"),
    "the names of a map changed": lambda fields, _: fields["limits"].update(patternProperties={"^b": {}}),
    "a pattern changed": lambda fields, _: fields["name"]["anyOf"][0].update(pattern="^b"),
}
BREAKS_SENDERS: dict[str, Callable[[dict[str, Any], Schema], object]] = {
    "a new required field": lambda fields, new: (fields.update(new={}), new["required"].append("new")),
    "an optional field required": lambda _, new: new["required"].append("name"),
    "a maximum lowered": lambda fields, _: fields["seq"].update(maximum=99),
    "a minimum raised": lambda fields, _: fields["seq"].update(minimum=1),
    "a length shortened": lambda fields, _: fields["name"]["anyOf"][0].update(maxLength=255),
    "a limit added": lambda fields, _: fields["why"].update(maxItems=9),
    "values enumerated": lambda fields, _: fields["why"]["items"]["properties"]["text"].update(enum=["x"]),
    "unknown fields refused": lambda _, new: new.update(additionalProperties=False),
}
BREAKS_RECEIVERS: dict[str, Callable[[dict[str, Any], Schema], object]] = {
    "a type added": lambda fields, _: fields["seq"].update(anyOf=[{"type": "integer"}, {"type": "null"}]),
    "a field no longer always there": lambda _, new: new["required"].remove("seq"),
    "a maximum raised": lambda fields, _: fields["seq"].update(maximum=101),
    "a length lifted": lambda fields, _: fields["name"]["anyOf"][0].pop("maxLength"),
}
GROWS: dict[str, Callable[[dict[str, Any], Schema], object]] = {
    "nothing": lambda _fields, _new: None,
    "an optional field added": lambda fields, _: fields.update(new={"type": "string"}),
    "a value added": lambda _, new: new["$defs"]["Colour"]["enum"].append("blue"),
    "a definition moved inline": lambda fields, new: fields.update(colour=new["$defs"].pop("Colour")),
    "a text reworded": lambda fields, _: fields["seq"].update(description="the number of the part"),
}


@pytest.mark.parametrize("what", [*BREAKS_BOTH, *BREAKS_SENDERS])
def test_a_breakage_for_senders_of_commands_is_seen(what: str) -> None:
    assert breakages(BASE, changed({**BREAKS_BOTH, **BREAKS_SENDERS}[what]), "in")


@pytest.mark.parametrize("what", [*BREAKS_BOTH, *BREAKS_RECEIVERS])
def test_a_breakage_for_receivers_is_seen(what: str) -> None:
    assert breakages(BASE, changed({**BREAKS_BOTH, **BREAKS_RECEIVERS}[what]), "out")


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("what", GROWS)
def test_growth_is_no_breakage(what: str, direction: Direction) -> None:
    assert breakages(BASE, changed(GROWS[what]), direction) == []
