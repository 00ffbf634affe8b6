"""From the form that a caller asks for to a compiled grammar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.errors import RequestError
from sensorium.grammar import bounds
from sensorium.grammar.faults import grammar_fault, regex_fault, schema_fault
from sensorium.grammar.library import limits, llguidance
from sensorium.grammar.schema_tree import closed, with_bounded_digits
from sensorium.grammar.vocabulary import Vocabulary
from sensorium.structured_outputs import StructuredOutputs

if TYPE_CHECKING:
    from llguidance import LLMatcher

#: Between tokens of JSON, unless the caller says otherwise: what programs write. Without a bound a
#: model may spend its whole answer on blanks.
WHITESPACE = r"(?: |\r?\n[ \t]{0,32})"


def compile_form(form: StructuredOutputs, vocabulary: Vocabulary) -> LLMatcher:
    """The compiled grammar, with its first mask, the costliest, computed.

    Raises:
        LimitError, RequestError: it is too large, faulty, can't be expressed, or allows nothing.
    """
    text, fault_of = _source(form)
    matcher: LLMatcher = llguidance().LLMatcher(
        vocabulary.backend, text, log_level=0, limits=limits()
    )
    if not matcher.is_error():
        first = set(_allowed(matcher.compute_bitmask(), vocabulary.size))
        if not matcher.is_error() and first <= set(vocabulary.eos_ids):
            what = "nothing but an empty answer" if first else "no answer of this model's tokens"
            raise RequestError(f"{form.form} allows {what}.")
    if matcher.is_error():
        raise RequestError(fault_of(matcher.get_error()))
    return matcher


def _allowed(mask: bytes, vocab_size: int) -> list[int]:
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
    found: list[int] = np.flatnonzero(bits[:vocab_size]).tolist()
    return found


def _source(form: StructuredOutputs) -> tuple[str, Callable[[str], str]]:
    """The grammar's text for the library, and the function that explains its refusals."""
    library = llguidance().LLMatcher
    if form.regex is not None:
        bounds.check_regex("regex", form.regex)
        return library.grammar_from_regex(form.regex), regex_fault
    if form.choice is not None:
        bounds.check_choices(tuple(form.choice))
        # One terminal, not a rule: thousands of rules would be tried at each token.
        lines = " | ".join(json.dumps(text).replace("\x7f", r"\u007f") for text in form.choice)
        return library.grammar_from_lark(f"start: CHOICE\nCHOICE: {lines}"), grammar_fault
    if form.grammar is not None:
        bounds.check_grammar(form.grammar)
        return library.grammar_from_lark(form.grammar), grammar_fault
    schema = {"type": "object"} if form.json is None else _schema(form.json)
    if form.disable_additional_properties:
        schema = closed(schema)
    bounded = json.dumps(with_bounded_digits(schema))
    text = library.grammar_from_json_schema(bounded, overrides=_options(form))
    return text, lambda reason: schema_fault(reason, schema)


def _options(form: StructuredOutputs) -> dict[str, Any]:
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
    if form.disable_any_whitespace:
        return {**options, "whitespace_flexible": False}
    pattern = WHITESPACE
    if form.whitespace_pattern is not None:
        pattern = form.whitespace_pattern
        bounds.check_regex("whitespace_pattern", pattern)
    return {**options, "whitespace_pattern": pattern}


def _schema(text: str) -> Mapping[str, Any]:
    """A schema's text as plain values, checked."""
    bounds.check_schema_text(text)
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise RequestError(f"The schema is no JSON: {error}.") from None
    except RecursionError:
        raise RequestError("The schema is nested too deeply.") from None
    if isinstance(schema, bool):
        if not schema:
            raise RequestError("The schema is false: it allows no value at all.")
        schema = {}
    if not isinstance(schema, Mapping):
        raise RequestError(f"The schema is {text[:200]!r}; it must be a JSON object.")
    if "x-guidance" in schema:
        raise RequestError(
            "The schema has x-guidance; whitespace is set by whitespace_pattern or "
            "disable_any_whitespace."
        )
    bounds.check_schema(schema)
    return schema
