"""``response_format`` and ``structured_outputs`` → what the engine is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium_server_openai.errors import bad_request

_FORMATS = ("text", "json_object", "json_schema")
_SCHEMA_KEYS = ("name", "description", "schema", "strict")


def structured_fields(
    response_format: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Keyword arguments of ``StructuredOutputs``; None: the answer is free text.

    Raises:
        HTTPError: both were given, or a format that isn't served.
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
    return dict(structured_outputs)


def _of_format(given: Mapping[str, Any]) -> dict[str, Any] | None:
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
        return {"json_object": True}
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
    return {"json": dict(schema)}


def _only(place: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for name in given:
        if name not in allowed:
            raise bad_request(
                f"{place} has the key {name[:64]!r}; allowed are {', '.join(allowed)}.", place
            )
