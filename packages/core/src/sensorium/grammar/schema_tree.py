"""A JSON schema as a tree of schemas: which parts of it are schemas themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
_FORMATS_WITH_ANY_DIGITS = ("date-time", "duration", "time")
_FEW_DIGITS = "^[^0-9]*(?:[0-9]{1,9}[^0-9]+)*[0-9]{0,9}$"

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


def with_bounded_digits(schema: Any) -> Any:
    """The schema with at most nine digits in a row where a format itself sets no bound.

    Fractions of a second (RFC 3339) and a duration's numbers (ISO 8601) may be of any length, so
    that a model could spend its whole answer on them.
    """
    if not isinstance(schema, Mapping):
        return schema
    changed = _with_children(schema, lambda _, part: with_bounded_digits(part))
    if schema.get("format") in _FORMATS_WITH_ANY_DIGITS:
        changed["allOf"] = [*changed.get("allOf", ()), {"pattern": _FEW_DIGITS}]
    return changed


def closed(schema: Any) -> Any:
    """The schema with ``additionalProperties: false`` where ``disable_additional_properties``
    puts it (see ``StructuredOutputs``)."""
    if not isinstance(schema, Mapping):
        return schema
    changed = _with_children(
        schema, lambda keyword, part: part if keyword == "allOf" else closed(part)
    )
    says = {"additionalProperties", "unevaluatedProperties", "allOf", "$ref"}
    if isinstance(schema.get("properties"), Mapping) and says.isdisjoint(schema):
        changed["additionalProperties"] = False
    return changed


def _with_children(schema: Schema, change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """A copy whose direct parts are what ``change`` makes of them, given the keyword and a part."""
    changed = dict(schema)
    for keyword in {path[0] for path, _ in children(schema)}:
        part = schema[keyword]
        if keyword in _NAMED:
            changed[keyword] = {name: change(keyword, each) for name, each in part.items()}
        elif isinstance(part, list):
            changed[keyword] = [change(keyword, each) for each in part]
        else:
            changed[keyword] = change(keyword, part)
    return changed
