"""``EncoderBook``: the scheduler's record of the embeddings that the runner keeps.

The runner encodes and drops what the scheduler tells it to; only the book records which embeddings
there are, their sizes, and how many sequences still need each. An entry is pinned once for each
sequence that needs it; an unpinned entry stays until its room is needed. An entry of which pieces
are still to be asked for takes the whole embedding's room, and goes with its last pin. The book
knows nothing of sequences or of what an embedding is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Entry:
    num_bytes: int
    num_pins: int
    num_left: int


class EncoderBook:
    """Bytes, pins and the order of last use of all embeddings, by key.

    Args:
        budget_bytes: what all embeddings together may take.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.pinned_bytes = 0
        self._entries: dict[bytes, _Entry] = {}
        self._unpinned: OrderedDict[bytes, None] = OrderedDict()
        self._evicted: dict[bytes, None] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    @property
    def room_bytes(self) -> int:
        """What can be pinned in addition, after dropping everything that isn't pinned."""
        return self.budget_bytes - self.pinned_bytes

    @property
    def has_evicted(self) -> bool:
        """Whether ``take_evicted`` would return anything."""
        return bool(self._evicted)

    def is_pinned(self, key: bytes) -> bool:
        """Whether any sequence needs it."""
        return key in self._entries and self._entries[key].num_pins > 0

    def is_complete(self, key: bytes) -> bool:
        """Whether it is there, all its pieces asked for."""
        entry = self._entries.get(key)
        return entry is not None and entry.num_left == 0

    def num_left(self, key: bytes, num_pieces: int) -> int:
        """How many of its ``num_pieces`` are still to be asked for."""
        entry = self._entries.get(key)
        return num_pieces if entry is None else entry.num_left

    def ask_for(self, key: bytes, count: int) -> int:
        """Counts the next ``count`` pieces as asked for; returns how many were left before."""
        entry = self._entries[key]
        assert 0 < count <= entry.num_left, "pieces were asked for that there are not"
        entry.num_left -= count
        return entry.num_left + count

    def touch(self, key: bytes) -> None:
        """Marks an entry as just used."""
        if key in self._unpinned:
            self._unpinned.move_to_end(key)

    def pin(self, key: bytes) -> None:
        """Adds a pin to an entry that is there."""
        entry = self._entries[key]
        if entry.num_pins == 0:
            del self._unpinned[key]
            self.pinned_bytes += entry.num_bytes
        entry.num_pins += 1

    def insert(self, key: bytes, num_bytes: int, num_left: int = 0) -> None:
        """Enters an embedding about to be made, pinned once; drops unpinned ones, the least
        recently used first, to make room for it.

        Args:
            num_left: pieces of it that are still to be asked for.
        """
        assert key not in self._entries, "an embedding was entered twice"
        assert num_bytes <= self.room_bytes, "an embedding was entered that has no room"
        while self.used_bytes + num_bytes > self.budget_bytes:
            self.discard(next(iter(self._unpinned)))
        self._entries[key] = _Entry(num_bytes, num_pins=1, num_left=num_left)
        self.used_bytes += num_bytes
        self.pinned_bytes += num_bytes

    def unpin(self, key: bytes) -> None:
        """Takes one pin away; without any, the entry may be dropped when room is needed, and is
        dropped at once if pieces are left to ask for."""
        entry = self._entries[key]
        assert entry.num_pins > 0, "an embedding was unpinned that nobody had pinned"
        entry.num_pins -= 1
        if entry.num_pins == 0:
            self._unpinned[key] = None
            self.pinned_bytes -= entry.num_bytes
            if entry.num_left:
                self.discard(key)

    def discard(self, key: bytes) -> None:
        """Drops an entry, its pins included."""
        entry = self._entries.pop(key)
        self.used_bytes -= entry.num_bytes
        if entry.num_pins:
            self.pinned_bytes -= entry.num_bytes
        self._unpinned.pop(key, None)
        self._evicted[key] = None

    def discard_unpinned(self) -> None:
        """Drops every unpinned entry."""
        for key in list(self._unpinned):
            self.discard(key)

    def take_evicted(self) -> tuple[bytes, ...]:
        """The keys dropped since the last call, for the runner to drop before it encodes."""
        evicted = tuple(self._evicted)
        self._evicted.clear()
        return evicted

    def check_integrity(self, pins: Iterable[bytes]) -> None:
        """Compares the book with the keys that all sequences have pinned, once for each pin.

        Raises:
            AssertionError: they differ.
        """
        counts = Counter(pins)
        booked = {key: e.num_pins for key, e in self._entries.items() if e.num_pins}
        assert booked == dict(counts), "pins and their holders differ"
        assert all(self.is_complete(key) for key in self._unpinned), "a part is kept for nobody"
        assert set(self._unpinned) == set(self._entries) - set(booked), "unpinned entries differ"
        used = sum(entry.num_bytes for entry in self._entries.values())
        pinned = sum(self._entries[key].num_bytes for key in booked)
        assert (used, pinned) == (self.used_bytes, self.pinned_bytes), "the bytes differ"
        assert used <= self.budget_bytes, "embeddings take more than their budget"
