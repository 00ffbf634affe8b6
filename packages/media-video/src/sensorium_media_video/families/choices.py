"""Options of clips that several families have: how many frames count, and at what rate."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.errors import RequestError

LARGEST_COUNT = 2**20


def count(kwargs: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """A count in ``mm_processor_kwargs``; None where there is none.

    Raises:
        RequestError: no integer, or one out of range.
    """
    value = kwargs.get(name)
    if value is None:
        return None
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= LARGEST_COUNT:
        raise RequestError(
            f"{name} is {value!r}; it must be an integer from {least} to {LARGEST_COUNT}."
        )
    return number


def number(kwargs: Mapping[str, Any], name: str) -> float | None:
    """A number above 0 in ``mm_processor_kwargs``; None where there is none.

    Raises:
        RequestError: something else.
    """
    found = numbers(kwargs, name, several=False)
    return found[0] if found else None


def numbers(kwargs: Mapping[str, Any], name: str, *, several: bool = True) -> tuple[float, ...]:
    """A number above 0, or a list of one for each clip; () where there is none.

    Raises:
        RequestError: something else.
    """
    value = kwargs.get(name)
    if value is None:
        return ()
    listed = several and isinstance(value, Sequence) and not isinstance(value, str)
    entries = list(value) if listed else [value]
    if not entries or not all(_is_positive(entry) for entry in entries):
        allowed = (
            "a number above 0, or a list of one for each clip" if several else "a number above 0"
        )
        raise RequestError(f"{name} is {value!r}; it must be {allowed}.")
    return tuple(float(entry) for entry in entries)


def refuse_sampling(kwargs: Mapping[str, Any]) -> None:
    """``do_sample_frames`` is accepted as other processors write it: it may be false.

    Raises:
        RequestError: it is true, or no bool.
    """
    value = kwargs.get("do_sample_frames")
    if value is not None and value is not False:
        raise RequestError(
            f"do_sample_frames is {value!r}; it may be False. Encoded clips are always sampled, "
            "and given frames where the metadata beside them say do_sample_frames."
        )


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0
