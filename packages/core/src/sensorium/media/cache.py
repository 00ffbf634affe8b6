"""``ByteLRU``: values by key, the least recently used dropped beyond a bound in bytes.

``ProcessorCache`` is one with plans and features in it. Neither knows how a key is made.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sensorium.stats import CacheStats as CacheStats  # the caches' own
from sensorium.types import Features, MediaPlan

Value = TypeVar("Value")


class ByteLRU(Generic[Value]):
    """A thread-safe mapping that holds at most ``max_bytes``, as its callers count them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self._num_bytes = 0
        self._num_hits = 0
        self._num_misses = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Value | None:
        """The value, now the most recently used; None if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._num_misses += 1
                return None
            self._num_hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: bytes, value: Value, num_bytes: int) -> bool:
        """Stores or replaces; returns whether it was kept.

        A value larger than the whole cache is not kept, and drops nothing but the key's
        earlier value. Every value counts as one byte at least.
        """
        num_bytes = max(1, num_bytes)
        with self._lock:
            if key in self._entries:
                self._num_bytes -= self._entries.pop(key)[1]
            if num_bytes > self._max_bytes:
                return False
            while self._num_bytes + num_bytes > self._max_bytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._num_bytes -= dropped
            self._entries[key] = (value, num_bytes)
            self._num_bytes += num_bytes
            return True

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._entries.clear()
            self._num_bytes = 0

    def __contains__(self, key: bytes) -> bool:
        """Whether ``get`` would find it; counts as no use."""
        with self._lock:
            return key in self._entries

    @property
    def stats(self) -> CacheStats:
        """Its counts at this moment."""
        with self._lock:
            return CacheStats(
                num_entries=len(self._entries),
                num_bytes=self._num_bytes,
                max_bytes=self._max_bytes,
                num_hits=self._num_hits,
                num_misses=self._num_misses,
            )


@dataclass(frozen=True, slots=True)
class Processed:
    """What is known of one item under its key.

    Attributes:
        plan: how many tokens it takes, and which.
        features: encoder name → that encoder's input; empty if only the plan is left.
        derived: (kind, name) of each item that was found inside it and processed too.
    """

    plan: MediaPlan
    features: Mapping[str, Features]
    derived: tuple[tuple[str, str], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Host memory it holds: the tensors' storages, each counted once, and the plan."""
        return feature_bytes(self.features) + _plan_bytes(self.plan)


class ProcessorCache:
    """Plans and features by key, bounded by bytes; and plans alone, bounded by count.

    Plans outlive their features: an item whose embedding alone is still cached needs its
    plan to be placed in a prompt.
    """

    def __init__(self, max_bytes: int, *, max_plan_bytes: int = 32 * 2**20) -> None:
        self._items: ByteLRU[Processed] = ByteLRU(max_bytes)
        self._plans: ByteLRU[Processed] = ByteLRU(max_plan_bytes)

    def get(self, key: bytes) -> Processed | None:
        """Plan and features; None if the features aren't there."""
        return self._items.get(key)

    def get_plan(self, key: bytes) -> Processed | None:
        """The plan without features, also where the features were dropped since."""
        return self._plans.get(key)

    def put(self, key: bytes, processed: Processed) -> None:
        """Stores both."""
        self._items.put(key, processed, processed.num_bytes)
        self._plans.put(key, replace(processed, features={}), _plan_bytes(processed.plan))

    def clear(self) -> None:
        """Drops everything."""
        self._items.clear()
        self._plans.clear()

    @property
    def stats(self) -> CacheStats:
        """Counts of the features' part."""
        return self._items.stats


def feature_bytes(features: Mapping[str, Features]) -> int:
    """Host memory that an item's features hold: the tensors' storages, each counted once."""
    storages: dict[int, int] = {}
    for tensors in features.values():
        for tensor in tensors.values():
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _plan_bytes(plan: MediaPlan) -> int:
    # A tuple holds a pointer a token; the ids themselves are few and shared.
    return 512 + 8 * len(plan.token_ids) + len(plan.is_embed or b"")
