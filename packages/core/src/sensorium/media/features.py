"""``FeatureBook``: which features are in memory, counted once however many requests hold them.

It counts bytes; it doesn't know where they are taken from. Whoever uses it has the lock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    value: object  # keeps the id from being another's
    num_bytes: int
    num_holders: int = 0


class FeatureBook:
    """One per budget.

    Args:
        copies: how often features lie in memory: twice where the engine is a process of its own.

    Attributes:
        num_bytes: what all of them take.
    """

    def __init__(self, copies: int) -> None:
        self.num_bytes = 0
        self._copies = copies
        self._held: dict[int, _Held] = {}

    def cost(self, features: object, num_bytes: int) -> int:
        """Bytes that holding these features would add."""
        return 0 if id(features) in self._held else num_bytes * self._copies

    def hold(self, features: object, num_bytes: int) -> tuple[int, int]:
        """Counts one holder more.

        Args:
            num_bytes: of one copy.

        Returns:
            (bytes that this adds, bytes that the features take).
        """
        added = self.cost(features, num_bytes)
        held = self._held.setdefault(id(features), _Held(features, added))
        held.num_holders += 1
        self.num_bytes += added
        return added, held.num_bytes

    def release(self, key: int) -> int:
        """Counts one holder less of the features with this ``id``; the bytes that returns."""
        held = self._held[key]
        held.num_holders -= 1
        if held.num_holders > 0:
            return 0
        del self._held[key]
        self.num_bytes -= held.num_bytes
        return held.num_bytes
