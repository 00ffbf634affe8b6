"""Why a grammar can't be compiled, in a sentence for the caller.

The library's reasons are texts for developers, with excerpts and hints about its own options. Known
reasons are reworded, with the place in the schema; of others the first line is kept.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sensorium.grammar.schema_tree import pointer, walk

_MOST_LETTERS = 300
_TOO_COMPLEX = re.compile(
    "fuel|too (?:large|big|many|complex)|precomputation|limit|Current row has|TooComplex", re.I
)


def schema_fault(reason: str, schema: Any) -> str:
    """Of a JSON schema.

    Args:
        reason: the library's.
        schema: as plain values.
    """
    line = _first_line(reason)
    if found := re.match(r"Unimplemented keys: (\[.*\])", line):
        return _keywords(json.loads(found[1]), schema)
    if line.startswith("oneOf constraints"):
        where = _where(schema, "oneOf")
        return f"The schema's oneOf{where} has branches that may hold together; use anyOf."
    if found := re.match(r"Unknown format: (.*)", line):
        where = _where(schema, "format", found[1])
        return f"The schema asks for the format {found[1]!r}{where}, which is not known here."
    if found := re.match(r"Invalid type: (.*)", line):
        where = _where(schema, "type", found[1])
        return f"The schema names the type {found[1]!r}{where}, which JSON does not have."
    if found := re.match(r"Resource '(.*?)' is not present", line):
        return (
            f"The schema refers to {found[1]!r}, which is not in it; only references within a "
            "schema are followed."
        )
    if line.startswith("Unsatisfiable schema"):
        return "The schema allows no value at all."
    if "patternProperty regexes" in line:
        found = re.search(r"regexes (/.*/) and (/.*/) are", line)
        which = f" {found[1]} and {found[2]}" if found else ""
        return f"The schema's patternProperties{which} may match the same name."
    if "regex parse error" in line:
        return f"A pattern in the schema can't be used: {_regex_reason(reason)}."
    return _other("The schema", line)


def regex_fault(reason: str) -> str:
    """Of a regular expression."""
    if _TOO_COMPLEX.search(_first_line(reason)):
        return _other("regex", _first_line(reason))
    return f"regex can't be used: {_regex_reason(reason)}."


def grammar_fault(reason: str) -> str:
    """Of a grammar in Lark's form."""
    line = _first_line(reason)
    if found := re.match(r"(?:at )?(\d+)\((\d+)\): (.*)", line):
        place, what = f"line {found[1]}, column {found[2]}", found[3]
        if "regex parse error" in what or "in regex" in what:
            what = _regex_reason(reason)
        return f"grammar can't be used, {place}: {_ended(what)}"
    return _other("grammar", line)


def _keywords(keywords: list[str], schema: Any) -> str:
    named = " and ".join(f"{name}{_where(schema, name)}" for name in keywords)
    which = "which no grammar here can" if len(keywords) == 1 else "which no grammars here can"
    return f"The schema uses {named}, {which} express."


def _where(schema: Any, keyword: str, value: str | None = None) -> str:
    """ " at #/…" of the first schema with such a keyword (and value), "" if there is none."""
    for path, part in walk(schema):
        if keyword in part and (value is None or value in (part[keyword], *_listed(part[keyword]))):
            return f" at {pointer(path)}"
    return ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _regex_reason(reason: str) -> str:
    """The message of the expression parser, without its excerpt."""
    if found := re.search(r"^\s*error: (.*)$", reason, re.M):
        return found[1].strip().rstrip(".")
    if "lookarounds not supported" in reason or "WordUnicode" in reason:
        return "look-around and word boundaries are not supported"
    return _first_line(reason).rstrip(".")


def _other(what: str, line: str) -> str:
    if _TOO_COMPLEX.search(line):
        return f"{what} is too complex to be compiled within the limits."
    return f"{what} can't be compiled: {_ended(line)}"


def _first_line(reason: str) -> str:
    lines = [line.strip() for line in reason.splitlines()]
    return next((line for line in lines if line and not line.startswith("<")), "no reason given")


def _ended(text: str) -> str:
    text = text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "…"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
