"""``EncoderPins``: which sequence holds which embeddings.

A sequence pins an embedding with the first chunk that needs it, and unpins it after the chunk that
uses its last row, or when it is preempted. An embedding that can't be made again, because only its
key came with the request, is pinned from the request's arrival to its end; it is unpinned until
admission only where it would keep an earlier request from running.

It applies the encoder budget to sequences; the scheduler decides their order.
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
                return self.stop_before(sequence, use)
        return stop

    def stop_before(self, sequence: Sequence, use: ItemUse) -> int:
        """Where a chunk ends that may not need the item."""
        start = sequence.num_computed
        return max(start, sequence.layout.cut_before(use.start)) if self._chunked else start

    def pin_chunk(
        self, sequence: Sequence, stop: int, max_pieces: int | None
    ) -> tuple[int, list[tuple[ItemUse, tuple[int, int]]]]:
        """Pins what a chunk up to ``stop`` needs, as far as its missing pieces are few enough.

        Embeddings that exist are pinned first, so that they aren't dropped to make room for the
        rest. An item of which pieces are left over is pinned too, if any of its pieces is encoded
        now or was before.

        Args:
            max_pieces: pieces that may be encoded; None: any number.

        Returns:
            How far the chunk gets, and the half-open runs of pieces that must be encoded.
        """
        needed = sequence.layout.needed(sequence.num_computed, stop)
        counts: dict[bytes, int] = {}
        for place, use in enumerate(needed):
            if self._book.is_complete(use.key) or use.key in counts:
                continue
            num_missing = self._book.num_left(use.key, use.item.num_pieces)
            count = num_missing if max_pieces is None else min(num_missing, max_pieces)
            counts[use.key] = count
            if max_pieces is not None:
                max_pieces -= count
            if count < num_missing:
                stop = self.stop_before(sequence, use)
                needed = needed[: place + (count > 0 or use.key in self._book)]
                break
        runs = []
        for use in needed:
            if use.key in self._book and (count := counts.pop(use.key, 0)):
                start = use.item.num_pieces - self._book.ask_for(use.key, count)
                runs.append((use, (start, start + count)))
        unpinned = [use for use in needed if use.index not in sequence.pins]
        for use in sorted(unpinned, key=lambda use: use.key not in self._book):
            if use.key in self._book:
                self._pin(sequence, use)
                continue
            count = counts.pop(use.key)
            self._book.insert(use.key, use.item.embed_bytes, use.item.num_pieces - count)
            sequence.pins.add(use.index)
            sequence.meet_item(use, was_encoded=False)
            runs.append((use, (0, count)))
        return stop, runs

    def pin_irreplaceable(self, sequence: Sequence) -> None:
        """Pins everything that can't be made again, as far as it is there."""
        for use in sequence.layout.uses:
            if not use.is_irreplaceable or use.index in sequence.pins:
                continue
            if self._book.is_complete(use.key):
                self._pin(sequence, use)

    def unpin_consumed(self, sequence: Sequence) -> None:
        """Unpins the embeddings whose rows the sequence's computed tokens have all used."""
        for use in self._held(sequence):
            if use.stop <= sequence.num_computed and not use.is_irreplaceable:
                self._unpin(sequence, use)

    def unpin_replaceable(self, sequence: Sequence) -> None:
        """Unpins the embeddings that a preempted sequence can make again."""
        for use in self._held(sequence):
            if not use.is_irreplaceable:
                self._unpin(sequence, use)

    def unpin_all(self, sequence: Sequence) -> None:
        """Unpins everything."""
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
            is_needed = use.is_irreplaceable and use.stop > num_done
            if is_needed and not self._book.is_complete(use.key):
                return use
        return None

    def has_share(
        self, sequence: Sequence, running: Iterable[Sequence], waiting: Iterable[Sequence]
    ) -> bool:
        """Whether every sequence that was admitted or holds embeddings could still finish together
        with this one."""
        waiting = list(waiting)
        return self._fit([sequence, *_admitted(running, waiting), *_holders(waiting)])

    def make_share(
        self, sequence: Sequence, running: Iterable[Sequence], waiting: Iterable[Sequence]
    ) -> bool:
        """Whether every sequence admitted so far could still finish together with this one.

        A preempted sequence keeps the share it was admitted with. Embeddings of sequences that were
        never admitted are unpinned, the last sequence's first.
        """
        if sequence.was_admitted:
            return True
        waiting = list(waiting)
        admitted = _admitted(running, waiting)
        holders = [s for s in _holders(waiting) if s is not sequence]
        while not self._fit([sequence, *admitted, *holders]):
            if not holders:
                return False
            self.unpin_all(holders.pop())
        return True

    def _fit(self, sequences: Iterable[Sequence]) -> bool:
        """Whether each of some sequences could get all the room it may need.

        Embeddings that can't be made again count in full for each of them; of the rest, the largest
        need of one sequence counts, since the first in rank can take the others'.
        """
        layouts = [sequence.layout for sequence in sequences]
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


def _admitted(running: Iterable[Sequence], waiting: Iterable[Sequence]) -> list[Sequence]:
    """Sequences that are running or were preempted."""
    return [*running, *(s for s in waiting if s.was_admitted)]


def _holders(waiting: Iterable[Sequence]) -> list[Sequence]:
    """Sequences that were never admitted and hold embeddings that can't be made again."""
    return [s for s in waiting if s.pins and not s.was_admitted]
