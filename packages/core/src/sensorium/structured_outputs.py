"""``StructuredOutputs``: the form that an answer must have.

Takes any spelling of a form and keeps plain text, which can be hashed and sent to another process.
``sensorium.grammar`` later checks that the form can be compiled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.errors import RequestError, UnsupportedError

#: The fields of which exactly one is given.
FORMS = ("json", "regex", "choice", "grammar", "json_object")
_JSON_OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """The form that an answer must have; exactly one of the first five is given.

    Args:
        json: a JSON schema: a mapping, its JSON text, or a class with ``model_json_schema``
            (a pydantic model). Kept as text. An answer's properties come in the schema's order.
        regex: a regular expression that the whole answer matches (the syntax of Rust's ``regex``,
            without look-around).
        choice: strings, one of which is the answer.
        grammar: a context-free grammar in llguidance's variant of Lark, with a rule ``start``.
        json_object: True: any JSON object.
        disable_any_whitespace: of ``json`` and ``json_object``: no whitespace between tokens of
            JSON. Otherwise there may be one space, or a line break with at most 32 spaces or tabs.
        disable_additional_properties: of ``json``: an object whose schema lists properties and
            says nothing of others has no others. Branches of ``allOf`` and schemas that have one,
            or a ``$ref``, beside their properties are left as they are.
        whitespace_pattern: of ``json`` and ``json_object``: a regular expression for the
            whitespace between tokens of JSON.
        structural_tag: refused by name.

    Raises:
        RequestError: none or several forms, or a value of the wrong kind.
        UnsupportedError: ``structural_tag``.
    """

    json: Any = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: Any = None

    def __post_init__(self) -> None:
        if self.structural_tag is not None:
            raise UnsupportedError("structural_tag is not supported yet; leave it out.")
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool | None):
                raise RequestError(f"{name} is {getattr(self, name)!r}; it is True or False.")
        for name in ("regex", "grammar", "whitespace_pattern"):
            if not isinstance(getattr(self, name), str | None):
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be a string.")
        if self.json is not None:
            object.__setattr__(self, "json", _schema_text(self.json))
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        self._check_form()

    def _check_form(self) -> None:
        given = [name for name in FORMS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise RequestError(
                f"structured_outputs takes exactly one of {', '.join(FORMS)}; it was given {found}."
            )
        options = [name for name in _JSON_OPTIONS if getattr(self, name) not in (None, False)]
        if options and given[0] not in ("json", "json_object"):
            raise RequestError(f"{options[0]} goes with json or json_object, not {given[0]}.")
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise RequestError("disable_any_whitespace and whitespace_pattern exclude each other.")
        if self.disable_additional_properties and given[0] == "json_object":
            raise RequestError("disable_additional_properties goes with json, not json_object.")

    @property
    def form(self) -> str:
        """Which of ``FORMS`` was given."""
        return next(name for name in FORMS if getattr(self, name) not in (None, False))


#: The name that vLLM has for it.
StructuredOutputsParams = StructuredOutputs


def _schema_text(schema: Any) -> str:
    """A schema as JSON text with its properties in their order."""
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, str):
        return schema
    if not isinstance(schema, Mapping | bool):
        raise RequestError(
            f"json is a value of type {type(schema).__name__}; it must be a schema as a mapping, "
            "its JSON text, or a class with model_json_schema."
        )
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise RequestError(f"The schema can't be written as JSON: {error}.") from None
    except RecursionError:
        raise RequestError("The schema is nested too deeply, or holds itself.") from None


def _plain(value: Any) -> Any:
    """Mappings that aren't ``dict`` and sequences that aren't ``list``, for ``json.dumps``."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)
    raise TypeError(f"it holds a value of type {type(value).__name__}")


def _choices(choice: Any) -> tuple[str, ...]:
    if isinstance(choice, str) or not isinstance(choice, Sequence) or not choice:
        raise RequestError(f"choice is {choice!r}; it must be a list of at least one string.")
    for text in choice:
        if not isinstance(text, str) or not text:
            raise RequestError(f"choice holds {text!r}; only non-empty strings are allowed.")
    return tuple(dict.fromkeys(choice))
