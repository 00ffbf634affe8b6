"""A JSON schema as a tree of schemas: which parts of it are schemas themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")

Schema = Mapping[str, Any]


def children(schema: Schema) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas directly inside one, each with its path from there."""
    for keyword in _ONE:
        if isinstance(schema.get(keyword), Mapping):
            yield (keyword,), schema[keyword]
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            for i, part in enumerate(schema[keyword]):
                yield (keyword, str(i)), part
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), Mapping):
            for name, part in schema[keyword].items():
                yield (keyword, name), part


def walk(root: Any) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every schema that is a mapping, with its path; the root first."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        if isinstance(schema, Mapping):
            yield path, schema
            waiting += [(path + more, part) for more, part in children(schema)]


def pointer(path: tuple[str, ...]) -> str:
    """A path as a JSON pointer (RFC 6901) in a fragment: "#/properties/name"."""
    return "".join(["#", *("/" + p.replace("~", "~0").replace("/", "~1") for p in path)])


def depth(value: Any) -> int:
    """How many mappings and lists stand inside each other; 0 for a plain value."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        inside = part.values() if isinstance(part, Mapping) else part
        if isinstance(part, Mapping | list):
            deepest = max(deepest, level)
            waiting += [(each, level + 1) for each in inside]
    return deepest


def target(root: Any, reference: str) -> Any:
    """What a ``$ref`` within a schema leads to; all of it where that isn't a JSON pointer."""
    part = root
    for name in reference.removeprefix("#").split("/")[1:]:
        name = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, Mapping) and name in part:
            part = part[name]
        else:
            return root
    return part


def closed(schema: Any) -> Any:
    """The schema with ``additionalProperties: false`` where ``disable_additional_properties``
    puts it (see ``StructuredOutputs``)."""
    if not isinstance(schema, Mapping):
        return schema
    changed = dict(schema)
    for (keyword, *rest), part in children(schema):
        if keyword == "allOf":
            continue
        if not rest:
            changed[keyword] = closed(part)
        elif isinstance(schema[keyword], list):
            changed[keyword] = [closed(each) for each in schema[keyword]]
        else:
            changed[keyword] = {name: closed(each) for name, each in schema[keyword].items()}
    says = {"additionalProperties", "unevaluatedProperties", "allOf", "$ref"}
    if isinstance(schema.get("properties"), Mapping) and says.isdisjoint(schema):
        changed["additionalProperties"] = False
    return changed
