"""JSON schemas drawn by hypothesis, of what grammars claim to express, whose answers are short."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Schema = dict[str, Any]

_NAMES = st.sampled_from("name age city tags price is_open colour of_what x a_b unit".split())
_WORDS = st.text("abcdefg hij'\"\\é日", min_size=0, max_size=8)
_PATTERNS = ["^[a-c]{1,4}$", "^(fox|dog)-[0-9]{2}$", r"^\d{3}$", "^[A-Z][a-z]{0,6}$"]
_FORMATS = ["date", "time", "uuid", "ipv4"]
_VALUES = st.one_of(st.none(), st.booleans(), st.integers(-999, 999), _WORDS)


@st.composite
def _strings(draw: st.DrawFn) -> Schema:
    least = draw(st.integers(0, 4))
    more: list[Schema] = [
        {"minLength": least, "maxLength": least + draw(st.integers(0, 8))},
        {"pattern": draw(st.sampled_from(_PATTERNS))},
        {"format": draw(st.sampled_from(_FORMATS))},
        {"enum": draw(st.lists(_WORDS, min_size=1, max_size=4, unique=True))},
    ]
    return {"type": "string", **draw(st.sampled_from(more))}


@st.composite
def _numbers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-500, 500))
    high = low + draw(st.integers(0, 500))
    bounds: list[Schema] = [
        {"minimum": low, "maximum": high},
        {"exclusiveMinimum": low, "exclusiveMaximum": high + 2},
        {"minimum": 0, "maximum": 1000, "multipleOf": draw(st.integers(1, 12))},
    ]
    return {"type": "integer", **draw(st.sampled_from(bounds))}


_LEAVES = st.one_of(
    _strings(),
    _numbers(),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda v: {"const": v}, _VALUES),
    st.builds(lambda v: {"enum": v}, st.lists(_VALUES, min_size=1, max_size=4, unique_by=repr)),
    st.just({"$ref": "#/$defs/leaf"}),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_NAMES, inner, min_size=1, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    if draw(st.booleans()):
        items = draw(st.lists(inner, min_size=1, max_size=3))
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    least = draw(st.integers(0, 2))
    most = least + draw(st.integers(0, 2))
    return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": most}


def _branches(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(_objects(inner), _arrays(inner), st.builds(lambda s: {"anyOf": s}, several))


_TREES = st.recursive(_LEAVES, _branches, max_leaves=6)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A schema, often of an object, with a definition that it may refer to."""
    root = draw(st.one_of(_objects(_TREES), _TREES))
    return {**root, "$defs": {"leaf": draw(st.one_of(_strings(), _numbers()))}}


def drawn(count: int) -> list[Schema]:
    """So many different schemas, always the same ones."""
    found: dict[str, Schema] = {}

    @settings(
        max_examples=2 * count,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(schemas())
    def draw(schema: Schema) -> None:
        found.setdefault(json.dumps(schema), schema)

    draw()
    assert len(found) >= count
    return list(found.values())[:count]
