"""Calls that a grammar makes certain: ``tool_choice`` "required", or of one function.

The answer is JSON by construction: of one function its arguments alone, of "required" an array of
``{"name": …, "parameters": …}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensorium_server_openai.tools.json_call import JsonCall
from sensorium_server_openai.tools.reading import (
    AnswerReader,
    Arguments,
    CallBegins,
    Content,
    Said,
)

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


class NamedCall(AnswerReader):
    """The whole answer is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        if not text:
            return []
        begins: list[Said] = [CallBegins(self._name)] if self._name is not None else []
        self._name = None
        return [*begins, Arguments(text)]


class RequiredCalls(AnswerReader):
    """The answer is an array of calls."""

    def __init__(self) -> None:
        self._call: JsonCall | None = None

    def feed(self, text: str) -> list[Said]:
        """See ``AnswerReader.feed``."""
        said: list[Said] = []
        while text:
            if self._call is None:
                text = text.lstrip("[], \t\r\n")
                self._call = JsonCall() if text else None
                continue
            pieces, taken = self._call.feed(text)
            said += pieces
            text = text[taken:]
            if self._call.failed:
                said.append(Content("".join(self._call.raw)))
            if self._call.failed or self._call.done:
                self._call = None
        return said

    def finish(self) -> list[Said]:
        """See ``AnswerReader.finish``; an answer that was cut off in a name has no call."""
        return []


def schema_of(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of one function's arguments."""
    return dict(parameters or _NO_PARAMETERS)


def schema_of_calls(
    functions: Sequence[tuple[str, Mapping[str, Any] | None]], *, only_one: bool
) -> dict[str, Any]:
    """The schema of an array of calls of these functions."""
    definitions: dict[str, Any] = {}
    branches = []
    for number, (name, parameters) in enumerate(functions):
        schema = _hoisted(schema_of(parameters), f"f{number}_", definitions)
        branches.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": schema},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    whole: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": branches}}
    if only_one:
        whole["maxItems"] = 1
    if definitions:
        whole["$defs"] = definitions
    return whole


def _hoisted(schema: dict[str, Any], prefix: str, definitions: dict[str, Any]) -> Any:
    """The schema, its definitions moved to the top under names that no other function has."""
    schema = dict(schema)
    for table in ("$defs", "definitions"):
        for name, definition in dict(schema.pop(table, {}) or {}).items():
            definitions[prefix + name] = _renamed(definition, prefix)
    return _renamed(schema, prefix)


def _renamed(value: Any, prefix: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _reference(v, prefix) if k == "$ref" else _renamed(v, prefix)
                for k, v in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_renamed(entry, prefix) for entry in value]
    return value


def _reference(target: Any, prefix: str) -> Any:
    for table in ("#/$defs/", "#/definitions/"):
        if isinstance(target, str) and target.startswith(table):
            return f"#/$defs/{prefix}{target.removeprefix(table)}"
    return target
