"""A small, safe subset of YAML, parsed with the line of every key.

One plain document of mappings with text keys, lists and scalars: no aliases, no duplicate keys, no tags beyond YAML's
own, at most 64 KB and 16 levels deep. A hostile file can neither run code nor expand in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edge.errors import ProcunitError

MAX_BYTES = 64 << 10
MAX_DEPTH = 16
TOO_LARGE = "Such a file is a page of text: check that it is the right one"

_TAG = "tag:yaml.org,2002:"

KeyPath = tuple[str | int, ...]


class YamlError(ProcunitError):
    """The text is not usable YAML; `line` counts from 1."""

    def __init__(self, what: str, *, line: int, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.line = line


@dataclass
class LocatedYaml:
    """A document as plain Python values.

    `lines` holds the line of each key and list item (counted from 1), `duplicates` each key that appears twice and the
    line of its second appearance.
    """

    data: object = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    duplicates: list[tuple[KeyPath, int]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest key above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def value(self, path: KeyPath) -> object:
        """The value of a key or list item; None if the document does not have it."""
        value = self.data
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def located_yaml_from_bytes(data: bytes) -> LocatedYaml:
    """Read one document.

    Raises:
        YamlError: it is not within the subset described above; the error has the line.
    """
    if len(data) > MAX_BYTES:
        raise YamlError(
            f"larger than {MAX_BYTES >> 10} KB",
            line=1,
            remedy=TOO_LARGE,
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError("not UTF-8 text", line=line, remedy="Save the file as UTF-8") from error
    try:
        _refuse_aliases_and_depth(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not valid YAML: {error.problem or error.context}"
        remedy = "Check the indentation, the colons and the quotes on this line and the one above"
        raise YamlError(what, line=mark.line + 1 if mark else 1, remedy=remedy) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError("contains a control character", line=line, remedy="Remove it") from error
    document = LocatedYaml()
    if root is not None:
        document.data = _value(root, (), document)
    return document


def _refuse_aliases_and_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases (& and *) are not allowed", line=line, remedy="Write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise YamlError(
                f"nested deeper than {MAX_DEPTH} levels", line=line, remedy="Check brackets and indentation"
            )


def _value(node: Node, path: KeyPath, document: LocatedYaml) -> object:
    if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
        items = []
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
            items.append(_value(item, (*path, index), document))
        return items
    if isinstance(node, ScalarNode):
        return _scalar(node)
    raise YamlError("tags are not allowed", line=node.start_mark.line + 1, remedy="Remove the tag (!...)")


def _mapping(node: MappingNode, path: KeyPath, document: LocatedYaml) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode) or key_node.tag != f"{_TAG}str":
            raise YamlError("a key must be plain text", line=line, remedy="Put the key in quotes")
        key = str(key_node.value)
        if key in mapping:
            document.duplicates.append(((*path, key), line))
            continue
        document.lines[(*path, key)] = line
        mapping[key] = _value(value_node, (*path, key), document)
    return mapping


def _scalar(node: ScalarNode) -> object:
    line = node.start_mark.line + 1
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise YamlError(f"not a plain value: {error.problem}", line=line, remedy="Remove the tag (!...)") from error
    except (ValueError, OverflowError) as error:
        raise YamlError(f"not a plain value: {error}", line=line, remedy="Put the value in quotes") from error
