"""Renders docs/asyncapi.html from docs/asyncapi.yaml, the schemas and the examples: one file that loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import yaml

from tools.contract.schemas import EXAMPLES_DIR

Tree = dict[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; } td, th { text-align: left; vertical-align: top;
padding: .3rem .6rem; border-bottom: 1px solid #ddd; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; } summary { cursor: pointer; }
""".strip()


def page_from_asyncapi(path: Path) -> str:
    """The page as HTML."""
    document: Tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    title = f"{document['info']['title']}, MQTT contract {document['info']['version']}"
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>\n{_STYLE}\n</style></head>\n<body>\n<h1>{escape(title)}</h1>",
        *(f"<p>{_text(paragraph)}</p>" for paragraph in document["info"]["description"].strip().split("\n\n")),
        "<h2>Topics</h2>",
        *_topics(document),
        "<h2>Payloads</h2>",
        *(
            line
            for name, message in document["components"]["messages"].items()
            for line in _message(path, name, message)
        ),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _topics(document: Tree) -> Iterator[str]:
    yield "<table><tr><th>topic</th><th>direction</th><th>QoS</th><th>retained</th><th>payload</th><th></th></tr>"
    for operation in document["operations"].values():
        channel = _at(document, operation["channel"]["$ref"])
        mqtt = operation["bindings"]["mqtt"]
        names = [str(ref["$ref"]).rpartition("/")[2] for ref in channel["messages"].values()]
        links = ", ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
        direction = "device publishes" if operation["action"] == "send" else "device takes"
        cells = (
            f"<code>{escape(channel['address'])}</code>",
            direction,
            str(mqtt["qos"]),
            "yes" if mqtt["retain"] else "no",
            links,
            _text(channel["description"]),
        )
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _message(path: Path, name: str, message: Tree) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(message["title"])}</h3>\n<p>{_text(message["summary"])}</p>'
    if "payload" not in message:
        return
    reference = str(message["payload"]["$ref"])
    schema: Tree = json.loads((path.parent / reference).read_text(encoding="utf-8"))
    if "description" in schema:
        yield f"<p>{_text(schema['description'])}</p>"
    yield from _fields(schema, schema.get("$defs", {}))
    yield f'<p>Schema: <a href="{escape(reference)}">{escape(reference)}</a></p>'
    for example in sorted(EXAMPLES_DIR.glob(f"{name}.*.json")):
        text = escape(example.read_text(encoding="utf-8").strip())
        yield f"<details><summary>Example: {escape(example.stem)}</summary><pre>{text}</pre></details>"


def _fields(schema: Tree, definitions: Tree) -> Iterator[str]:
    yield "<table><tr><th>field</th><th>type</th><th></th></tr>"
    for prefix, name, field, required in _flat(schema, definitions, ""):
        notes = [] if required else ["may be left out"]
        notes += [f"{key} {field[key]}" for key in ("maximum", "minimum", "maxLength", "pattern") if key in field]
        kind = escape(_type(field, definitions))
        yield f"<tr><td><code>{escape(prefix + name)}</code></td><td>{kind}</td><td>{_text('; '.join(notes))}</td></tr>"
    yield "</table>"


def _flat(schema: Tree, definitions: Tree, prefix: str) -> Iterator[tuple[str, str, Tree, bool]]:
    """All fields, including those of nested objects."""
    for name, field in schema.get("properties", {}).items():
        yield prefix, name, field, name in schema.get("required", ())
        inner, mark = field, "."
        for alternative in field.get("anyOf", (field,)):
            if alternative.get("type") != "null":
                inner = alternative
        if inner.get("type") == "array":
            inner, mark = inner["items"], "[]."
        if "$ref" in inner:
            yield from _flat(_resolved(inner, definitions), definitions, f"{prefix}{name}{mark}")


def _type(field: Tree, definitions: Tree) -> str:
    field = _resolved(field, definitions)
    if "anyOf" in field:
        return " or ".join(_type(alternative, definitions) for alternative in field["anyOf"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'], definitions)}"
    values = field.get("additionalProperties")
    if isinstance(values, dict):
        return f"object, name to {_type(values, definitions)}"
    return str(field.get("const", field.get("type", "any")))


def _resolved(field: Tree, definitions: Tree) -> Tree:
    resolved: Tree = definitions[str(field["$ref"]).rpartition("/")[2]] if "$ref" in field else field
    return resolved


def _at(document: Tree, reference: str) -> Tree:
    found = document
    for key in reference.removeprefix("#/").split("/"):
        found = found[key]
    return found


def _text(text: str) -> str:
    """Escape a text for HTML; text in backquotes becomes code."""
    pieces = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
