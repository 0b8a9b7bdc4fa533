"""Whether a JSON Schema of the wire has only grown; what breaks a receiver or a sender is named.

What the device sends may gain fields and values of enumerations; receivers ignore what they do not know. A field that
stays must not gain a type, because a receiver would meet one that it never met. What the device takes may gain optional
fields; nothing that was accepted may be refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["out", "in"]
Schema = dict[str, Any]

_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


def breakages(old: Schema, new: Schema, direction: Direction) -> list[str]:
    """Every way in which the new schema breaks those who rely on the old one."""
    return list(_compare(old, new, _Roots(old, new), direction, "$"))


@dataclass(frozen=True)
class _Roots:
    """The whole schemas, for their definitions."""

    old: Schema
    new: Schema


def _compare(old: Schema, new: Schema, roots: _Roots, direction: Direction, where: str) -> Iterator[str]:
    old_forms, new_forms = _forms(old, roots.old), _forms(new, roots.new)
    for kind, form in old_forms.items():
        if kind not in new_forms:
            yield f"{where}: {kind} is gone"
        else:
            yield from _compare_form(form, new_forms[kind], roots, direction, where)
    if direction == "out":
        yield from (f"{where}: {kind} is new" for kind in new_forms.keys() - old_forms.keys())


def _compare_form(old: Schema, new: Schema, roots: _Roots, direction: Direction, where: str) -> Iterator[str]:
    yield from (
        f"{where}: the value {value!r} is gone" for value in _values(old) if value not in (_values(new) or [value])
    )
    if direction == "in" and _values(new) and not _values(old):
        yield f"{where}: values are enumerated now"
    yield from _compare_limits(old, new, direction, where)
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for name, field in old_fields.items():
        if name not in new_fields:
            yield f"{where}.{name}: the field is gone"
        else:
            yield from _compare(field, new_fields[name], roots, direction, f"{where}.{name}")
    required_before, required_now = set(old.get("required", ())), set(new.get("required", ()))
    if direction == "in":
        yield from (f"{where}.{name}: required now" for name in sorted(required_now - required_before))
    else:
        yield from (f"{where}.{name}: no longer always there" for name in sorted(required_before - required_now))
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _compare(old[key], new[key], roots, direction, f"{where}[{key}]")
        elif direction == "in" and new.get(key) is False and old.get(key) is not False:
            yield f"{where}: unknown fields are refused now"
    yield from _compare_patterns(old, new, roots, direction, where)


def _compare_limits(old: Schema, new: Schema, direction: Direction, where: str) -> Iterator[str]:
    """What the device takes must not be limited more, what it sends must not be limited less."""
    loose, tight = (old, new) if direction == "in" else (new, old)
    for key in (*_UPPER, *_LOWER, "pattern", "format"):
        if key not in tight:
            continue
        if key not in loose:
            yield f"{where}: {key} {tight[key]!r} was added or lifted"
        elif key in _UPPER:
            if tight[key] < loose[key]:
                yield f"{where}: {key} {old[key]!r} became {new[key]!r}"
        elif key in _LOWER:
            if tight[key] > loose[key]:
                yield f"{where}: {key} {old[key]!r} became {new[key]!r}"
        elif tight[key] != loose[key]:
            yield f"{where}: {key} {old[key]!r} became {new[key]!r}"


def _compare_patterns(old: Schema, new: Schema, roots: _Roots, direction: Direction, where: str) -> Iterator[str]:
    before, now = old.get("patternProperties", {}), new.get("patternProperties", {})
    if before.keys() != now.keys():
        yield f"{where}: names {sorted(before)} became {sorted(now)}"
    for pattern in before.keys() & now.keys():
        yield from _compare(before[pattern], now[pattern], roots, direction, f"{where}[names]")


def _forms(schema: Schema, root: Schema) -> dict[str, Schema]:
    """The alternatives of a schema by their JSON type."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        return _forms({**root["$defs"][name], **{k: v for k, v in schema.items() if k != "$ref"}}, root)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        return {kind: form for alternative in alternatives for kind, form in _forms(alternative, root).items()}
    return {str(schema.get("type", "any")): schema}


def _values(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
