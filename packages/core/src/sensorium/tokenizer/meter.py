"""``Meter``: bounds one run of a template in steps, CPU time and memory.

A value is weighed when it is made: one unit for each entry of lists and mappings, those inside
included as often as they occur, and one for each 512 bytes of text. So no single operation on a
value takes long, even in C, where it can't be interrupted, or where nested values share parts and
their text would double with every level. Knows nothing of templates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_BYTES_A_UNIT = 512
_LONGEST_INTEGER_BITS = 2**16


class TemplateLimitError(Exception):
    """A template took more than it may; the message goes on from "the template was stopped: "."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What a run may take.

    Attributes:
        steps: iterations of loops, calls, filters, tests and operations.
        cpu_s: computing time of the thread, so that a busy machine ends no run early.
        value_units: weight of one value; 2**17 are 64 MiB of text or 131,072 entries.
        total_bytes: text and lists made in the whole run, kept or not.
    """

    steps: int = 2_000_000
    cpu_s: float = 5.0
    value_units: int = 2**17
    total_bytes: int = 2**29


@dataclass(frozen=True, slots=True)
class Weight:
    """A value's weight, and how deep lists and mappings lie in one another in it."""

    units: int
    depth: int = 0


class Meter:
    """One run's.

    Args:
        apart: types of objects that may not be inside lists and mappings, since their contents
            change and can't be weighed.
    """

    def __init__(self, limits: TemplateLimits, apart: tuple[type, ...] = ()) -> None:
        self._limits = limits
        self._apart = apart
        self._num_steps = 0
        self._num_bytes = 0
        self._end_s = time.thread_time() + limits.cpu_s
        # The thread's CPU time is read only after this much wall time has passed.
        self._look_s = time.perf_counter() + limits.cpu_s
        # By identity; each value is kept alive, so that its id isn't reused.
        self._weights: dict[int, tuple[object, Weight]] = {}

    def step(self) -> None:
        """Counts a step.

        Raises:
            TemplateLimitError: too many steps, or no time left.
        """
        self._num_steps += 1
        if self._num_steps > self._limits.steps:
            raise TemplateLimitError(f"it takes more than {self._limits.steps} steps.")
        if time.perf_counter() >= self._look_s:
            left_s = self._end_s - time.thread_time()
            if left_s <= 0:
                raise TemplateLimitError(f"it computes for more than {self._limits.cpu_s:g} s.")
            self._look_s = time.perf_counter() + left_s

    def made(self, value: T) -> T:
        """Weighs a value that was just made, and returns it.

        Raises:
            TemplateLimitError: it is too large, or too much was made.
        """
        self.check_units(self.weight(value).units)
        self._num_bytes += _own_bytes(value)
        if self._num_bytes > self._limits.total_bytes:
            limit = self._limits.total_bytes // 2**20
            raise TemplateLimitError(f"it makes more than {limit} MiB of text and lists.")
        return value

    def check_text(self, num_characters: int) -> None:
        """Before a text of this length is made."""
        self.check_units(num_characters // _BYTES_A_UNIT)

    def check_units(self, units: int) -> None:
        """Before a value of this weight is made."""
        if units > self._limits.value_units:
            limit = self._limits.value_units * _BYTES_A_UNIT // 2**20
            raise TemplateLimitError(
                f"it makes a value of more than {limit} MiB or {self._limits.value_units} entries."
            )

    def weight(self, value: object) -> Weight:
        """A value's weight; of anything but text, integers, lists and mappings it is one unit."""
        if isinstance(value, (str, bytes)):
            return Weight(1 + _own_bytes(value) // _BYTES_A_UNIT)
        if isinstance(value, int):
            if value.bit_length() > _LONGEST_INTEGER_BITS:
                raise TemplateLimitError("it makes an integer of more than 2**16 bits.")
            return Weight(1)
        if not isinstance(value, (list, tuple, set, frozenset, Mapping)):
            return Weight(1)
        known = self._weights.get(id(value))
        if known is None:
            known = self._weights[id(value)] = (value, self._weight_of_entries(value))
        return known[1]

    def _weight_of_entries(self, value: Any) -> Weight:
        units, depth = 1, 0
        most = self._limits.value_units
        for entry in [*value, *value.values()] if isinstance(value, Mapping) else value:
            if type(entry) is str:
                units += 1 + entry.__sizeof__() // _BYTES_A_UNIT
            elif isinstance(entry, self._apart):
                raise TemplateLimitError(f"it puts a {type(entry).__name__} into another value.")
            else:
                found = self.weight(entry)
                units += found.units
                depth = max(depth, found.depth)
            if units > most:
                self.check_units(units)
        return Weight(units, depth + 1)


def _own_bytes(value: object) -> int:
    """What a value takes without what it refers to."""
    if isinstance(value, (str, bytes, list, tuple, set, frozenset, dict)):
        return value.__sizeof__()
    return 0
