"""``Prefix``: the first entries of a list that only grows, as they stood when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, overload

T = TypeVar("T", covariant=True)


class Prefix(Sequence[T]):
    """A sequence that shares the list's entries; making one costs the same at every length.

    Equal to a tuple of its entries; slices, copies and pickles are tuples.

    Args:
        entries: may be appended to afterwards, not changed otherwise.
    """

    __slots__ = ("_entries", "_length")

    def __init__(self, entries: list[T]) -> None:
        self._entries = entries
        self._length = len(entries)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...
    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        if isinstance(place, slice):
            start, stop, step = place.indices(self._length)
            if step > 0:
                return tuple(self._entries[start:stop:step])
            return tuple(self._entries[i] for i in range(start, stop, step))
        if not -self._length <= place < self._length:
            raise IndexError(f"index {place} is out of range of {self._length} entries")
        return self._entries[place % self._length]

    def __iter__(self) -> Iterator[T]:
        return islice(self._entries, self._length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (tuple, Prefix)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __add__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self) + tuple(other)

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(other) + tuple(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)
