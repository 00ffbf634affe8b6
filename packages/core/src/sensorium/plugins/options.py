"""``check_options``: the options that a kind reads from ``media_io_kwargs``, held against a table.

The table names each option once, with the check that its value must pass. The checks that several
kinds need are here; a kind may write others. This module knows no option.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sensorium.errors import ConfigError

#: Takes an option's name and the value given; returns the value as it is used, or raises
#: ``ConfigError`` with a sentence that names both.
OptionCheck: TypeAlias = Callable[[str, Any], Any]


def check_options(
    where: str, given: Mapping[str, Any], checks: Mapping[str, OptionCheck]
) -> dict[str, Any]:
    """The checked values of the options that were given; options left out stay out.

    Args:
        where: what the user wrote the options into, for messages: ``'media_io_kwargs["kind"]'``.
        given: the user's mapping.
        checks: every option that is allowed.

    Raises:
        ConfigError: an option that ``checks`` doesn't name, or a value that its check refuses.
    """
    unknown = next((key for key in given if key not in checks), None)
    if unknown is not None:
        raise ConfigError(f"{where} has {unknown!r}; allowed are {', '.join(checks)}.")
    return {name: checks[name](name, value) for name, value in given.items()}


def as_integer(value: Any) -> int | None:
    """``value`` as an int, or None if it is no integer. True and False are none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integer(low: int, high: int) -> OptionCheck:
    """Checks for an integer from ``low`` to ``high``, both included."""

    def check(name: str, value: Any) -> int:
        number = as_integer(value)
        if number is None or not low <= number <= high:
            raise ConfigError(f"{name} is {value!r}; it must be an integer from {low} to {high}.")
        return number

    return check


def positive_number(at_most: float, unit: str) -> OptionCheck:
    """Checks for a number above 0 and at most ``at_most``; ``unit`` (plural) is for the message."""

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (math.isfinite(value) and 0 < value <= at_most):
            raise ConfigError(
                f"{name} is {value!r}; it must be a number of {unit} above 0 and at most "
                f"{at_most:g}."
            )
        return float(value)

    return check
