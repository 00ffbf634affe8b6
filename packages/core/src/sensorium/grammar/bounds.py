"""Bounds on grammars, checked before anything is compiled.

The numbers are chosen so that whatever passes is compiled in about a second at worst, usually in
one or two milliseconds, makes masks in some milliseconds, and can't exhaust a thread's stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from sensorium.errors import LimitError, RequestError
from sensorium.grammar.schema_tree import depth, pointer, target, walk

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
#: Depth of all references together, each counted once, since the library follows one inside
#: another.
MAX_REFERENCES_DEPTH = 512
MAX_PROPERTIES = 500
#: The least common multiple of all ``multipleOf``, without its decimal places: as many states
#: does a recogniser of the multiples have.
MAX_MULTIPLE_OF = 10_000
MAX_CHOICES = 10_000
MAX_CHOICE_BYTES = 65_536
MAX_GRAMMAR_BYTES = 65_536
#: Rules and opening brackets of a grammar, which bound how deep it can go.
MAX_GRAMMAR_PARTS = 1_000
MAX_REGEX_BYTES = 4_096
#: Characters of an expression once its counted repetitions are written out.
MAX_REGEX_SIZE = 5_000

_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_COUNT = re.compile(r"\{(\d{1,9})(?:(,)(\d{1,9})?)?\}")


def check_choices(choices: tuple[str, ...]) -> None:
    """Of ``choice``.

    Raises:
        RequestError, LimitError: what was given, and what is allowed.
    """
    if len(choices) > MAX_CHOICES:
        raise LimitError(f"choice has {len(choices)} strings; at most {MAX_CHOICES} are allowed.")
    _check_bytes("choice", "".join(choices), MAX_CHOICE_BYTES)


def check_regex(what: str, regex: str) -> None:
    """Of ``regex``, a pattern in a schema, or the pattern of whitespace; errors as above."""
    _check_bytes(what, regex, MAX_REGEX_BYTES)
    size = regex_size(regex)
    if size > MAX_REGEX_SIZE:
        raise LimitError(
            f"{what} has {size} characters once its repetitions are written out; at most "
            f"{MAX_REGEX_SIZE} are allowed."
        )


def check_grammar(text: str) -> None:
    """Of ``grammar``; errors as above."""
    _check_bytes("grammar", text, MAX_GRAMMAR_BYTES)
    num_parts = sum(map(text.count, "([{:"))
    if num_parts > MAX_GRAMMAR_PARTS:
        raise LimitError(
            f"grammar has {num_parts} rules and brackets; at most {MAX_GRAMMAR_PARTS} are allowed."
        )
    for number in re.findall(r'"multipleOf"\s*:\s*([-+.\deE]+)', text):
        _check_multiples("grammar", [number])
    # Strings may hold brackets, expressions may hold quotes: the text is read both ways.
    for reading in (text, _STRING.sub("x", text)):
        more = regex_size(reading) - len(reading)
        if more > MAX_REGEX_SIZE:
            raise LimitError(
                f"grammar grows by {more} characters once its repetitions are written out; at "
                f"most {MAX_REGEX_SIZE} are allowed."
            )


def check_schema_text(text: str) -> None:
    """Of a schema's text; errors as above."""
    _check_bytes("The schema", text, MAX_SCHEMA_BYTES, nul=False)


def check_schema(schema: Any) -> None:
    """Of a schema as plain values; errors as above."""
    levels = depth(schema)
    if levels > MAX_SCHEMA_DEPTH:
        raise LimitError(
            f"The schema is nested {levels} deep; at most {MAX_SCHEMA_DEPTH} are allowed."
        )
    multiples: list[Any] = []
    references: set[str] = set()
    for path, part in walk(schema):
        _check_schema_part(pointer(path), part)
        multiples += [part["multipleOf"]] if "multipleOf" in part else []
        references |= {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    followed = sum(depth(target(schema, reference)) for reference in references)
    if followed > MAX_REFERENCES_DEPTH:
        raise LimitError(
            f"What the schema refers to is nested {followed} deep, all together; at most "
            f"{MAX_REFERENCES_DEPTH} are allowed."
        )
    _check_multiples("The schema", multiples)


def _check_schema_part(where: str, part: Mapping[str, Any]) -> None:
    properties = part.get("properties")
    if isinstance(properties, Mapping) and len(properties) > MAX_PROPERTIES:
        raise LimitError(
            f"The schema lists {len(properties)} properties at {where}; at most {MAX_PROPERTIES} "
            "are allowed."
        )
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    if isinstance(part.get("patternProperties"), Mapping):
        patterns += part["patternProperties"]
    for pattern in patterns:
        check_regex(f"The pattern at {where}", pattern)


def regex_size(regex: str) -> int:
    """Characters of an expression whose counted repetitions are written out.

    ``a{3}`` counts 3, ``(ab{2}){0,4}`` 12; classes and escapes count as one each. Of repetitions
    without an upper bound the lower one counts. A text that isn't a valid expression gets some size
    too.
    """
    sizes, last, i = [0], 0, 0
    while i < len(regex):
        count = _COUNT.match(regex, i) if regex[i] == "{" else None
        if count is not None:
            times = max(int(count[3] or count[1]), 1)
            sizes[-1] += last * (times - 1)
            last *= times
            i = count.end()
            continue
        letter = regex[i]
        i += 1
        if letter == "(":
            sizes.append(0)
        elif letter == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif letter not in "*+?":
            i = _end_of_atom(regex, i, letter)
            sizes[-1] += 1
            last = 1
    return sum(sizes)


def _end_of_atom(regex: str, i: int, letter: str) -> int:
    """Behind an escape, a class or a plain character that begins with ``letter`` before ``i``."""
    if letter == "\\":
        if regex[i : i + 2] in ("p{", "P{", "x{", "u{"):
            end = regex.find("}", i)
            return len(regex) if end < 0 else end + 1
        return i + 1
    if letter != "[":
        return i
    i += regex[i : i + 1] == "^"
    i += regex[i : i + 1] == "]"
    while i < len(regex) and regex[i] != "]":
        i += 2 if regex[i] == "\\" else 1
    return i + 1


def _check_multiples(what: str, numbers: list[Any]) -> None:
    multiple = 1
    for number in numbers:
        try:
            _, digits, _ = Decimal(str(number)).normalize().as_tuple()
        except InvalidOperation:
            continue  # no number: the library says so
        multiple = math.lcm(multiple, int("".join(map(str, digits))) or 1)
    if multiple > MAX_MULTIPLE_OF:
        raise LimitError(
            f"{what} needs multiples of {', '.join(map(str, numbers[:5]))}; their least common "
            f"multiple, without decimal places, may be {MAX_MULTIPLE_OF} at most."
        )


def _check_bytes(what: str, text: str, most: int, *, nul: bool = True) -> None:
    if nul and "\0" in text:
        raise RequestError(f"{what} holds a NUL character, which no answer can have.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what} holds half a surrogate pair, which is no text.") from None
    if size > most:
        raise LimitError(f"{what} has {size} bytes; at most {most} are allowed.")
