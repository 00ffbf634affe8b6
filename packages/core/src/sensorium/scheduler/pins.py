"""``EncoderPins``: which sequence holds which embeddings.

A sequence pins an embedding with the first chunk that needs it and lets it go behind the
chunk that takes its last row, or when it is preempted. An embedding that can't be made again,
because only its key came with the request, is held from the request's arrival to its end; only
where that would keep an earlier request from running it is let go until admission.

It applies the encoder budget to sequences; which of them goes first isn't its affair.
"""

from __future__ import annotations

from collections.abc import Iterable

from sensorium.scheduler.encoder_book import EncoderBook
from sensorium.scheduler.layout import ItemUse
from sensorium.scheduler.sequence import Sequence


class EncoderPins:
    """The pins of all sequences in one book.

    Args:
        book: what lies in the runner's encoder cache.
        chunked: whether a chunk may end before the sequence does.
    """

    def __init__(self, book: EncoderBook, *, chunked: bool) -> None:
        self._book = book
        self._chunked = chunked

    def stop_in_room(self, sequence: Sequence, stop: int) -> int:
        """How far the budget lets a chunk get: ``stop``, or before an item without room."""
        start = sequence.num_computed
        room_bytes = self._book.room_bytes
        counted: set[bytes] = set()
        for use in sequence.layout.needed(start, stop):
            if self._book.is_pinned(use.key) or use.key in counted:
                continue
            counted.add(use.key)
            room_bytes -= use.item.embed_bytes
            if room_bytes < 0:
                return max(start, sequence.layout.cut_before(use.start)) if self._chunked else start
        return stop

    def pin_chunk(self, sequence: Sequence, stop: int) -> list[ItemUse]:
        """Pins what a chunk up to ``stop`` needs; returns the items that must be encoded.

        What is there is pinned first, so that it isn't dropped to make room for the rest.
        """
        needed = sequence.layout.needed(sequence.num_computed, stop)
        unpinned = [use for use in needed if use.index not in sequence.pins]
        missing = []
        for use in sorted(unpinned, key=lambda use: use.key not in self._book):
            if use.key in self._book:
                self._pin(sequence, use)
                continue
            self._book.insert(use.key, use.item.embed_bytes)
            sequence.pins.add(use.index)
            sequence.meet_item(use, was_encoded=False)
            missing.append(use)
        return missing

    def pin_irreplaceable(self, sequence: Sequence) -> None:
        """Pins everything that can't be made again, as far as it is there."""
        for use in sequence.layout.uses:
            if use.is_irreplaceable and use.index not in sequence.pins and use.key in self._book:
                self._pin(sequence, use)

    def unpin_consumed(self, sequence: Sequence) -> None:
        """Lets go what the sequence's computed tokens have used up."""
        for use in self._held(sequence):
            if use.stop <= sequence.num_computed and not use.is_irreplaceable:
                self._unpin(sequence, use)

    def unpin_replaceable(self, sequence: Sequence) -> None:
        """Lets go what a preempted sequence can make again."""
        for use in self._held(sequence):
            if not use.is_irreplaceable:
                self._unpin(sequence, use)

    def unpin_all(self, sequence: Sequence) -> None:
        """Lets go everything."""
        for use in self._held(sequence):
            self._unpin(sequence, use)

    def discard(self, key: bytes, holders: Iterable[Sequence]) -> None:
        """Takes an embedding that wasn't made out of the book, and its pins off ``holders``."""
        if key not in self._book:
            return
        self._book.discard(key)
        for sequence in holders:
            for use in self._held(sequence):
                if use.key == key:
                    sequence.pins.remove(use.index)

    def lost_item(self, sequence: Sequence, num_done: int) -> ItemUse | None:
        """An item that has neither features nor an embedding any more, and whose tokens aren't
        among the first ``num_done``, which are computed already."""
        for use in sequence.layout.uses:
            if use.is_irreplaceable and use.stop > num_done and use.key not in self._book:
                return use
        return None

    def has_share(self, sequence: Sequence, admitted: Iterable[Sequence]) -> bool:
        """Whether any one of the admitted could still get all room it may need, with it.

        Embeddings that can't be made again count in full for each of them; of the rest, the
        largest need of one, since whoever comes first can take the others'.
        """
        layouts = [sequence.layout, *(other.layout for other in admitted)]
        kept_bytes = sum(layout.kept_bytes for layout in layouts)
        return kept_bytes + max(x.peak_bytes for x in layouts) <= self._book.budget_bytes

    def _held(self, sequence: Sequence) -> list[ItemUse]:
        if not sequence.pins:
            return []
        return [use for use in sequence.layout.uses if use.index in sequence.pins]

    def _pin(self, sequence: Sequence, use: ItemUse) -> None:
        self._book.pin(use.key)
        sequence.pins.add(use.index)
        sequence.meet_item(use, was_encoded=True)

    def _unpin(self, sequence: Sequence, use: ItemUse) -> None:
        self._book.unpin(use.key)
        sequence.pins.remove(use.index)
