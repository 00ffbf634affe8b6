"""``response_format`` and ``structured_outputs`` → what the engine is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sensorium.structured_outputs import StructuredOutputs
from sensorium_server_openai.errors import bad_request

_FORMATS = ("text", "json_object", "json_schema")
_SCHEMA_KEYS = ("name", "description", "schema", "strict")


_FIELDS = tuple(field.name for field in fields(StructuredOutputs))


def structured_outputs_of(
    response_format: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> StructuredOutputs | None:
    """The form that the answer must have; None: it is free text.

    Raises:
        HTTPError: both were given, or a format that isn't served.
        RequestError: a value that can't hold.
    """
    from_format = None if response_format is None else _of_format(response_format)
    if structured_outputs is None:
        return from_format
    if from_format is not None:
        raise bad_request(
            "response_format and structured_outputs both say what the answer looks like; "
            "give one of them.",
            "structured_outputs",
        )
    _only("structured_outputs", structured_outputs, _FIELDS)
    given = {name: value for name, value in structured_outputs.items() if value is not None}
    return StructuredOutputs(**given)


def _of_format(given: Mapping[str, Any]) -> StructuredOutputs | None:
    kind = given.get("type")
    if kind not in _FORMATS:
        raise bad_request(
            f"response_format has the type {kind!r}; allowed are {', '.join(_FORMATS)}.",
            "response_format.type",
        )
    allowed = ("type", "json_schema") if kind == "json_schema" else ("type",)
    _only("response_format", given, allowed)
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    described = given.get("json_schema")
    if not isinstance(described, Mapping):
        raise bad_request(
            "response_format needs json_schema, an object.", "response_format.json_schema"
        )
    _only("response_format.json_schema", described, _SCHEMA_KEYS)
    schema = described.get("schema")
    if not isinstance(schema, Mapping):
        raise bad_request(
            "response_format.json_schema needs schema, an object.",
            "response_format.json_schema.schema",
        )
    return StructuredOutputs(json=schema)


def _only(place: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for name in given:
        if name not in allowed:
            raise bad_request(
                f"{place} has the key {name[:64]!r}; allowed are {', '.join(allowed)}.", place
            )
