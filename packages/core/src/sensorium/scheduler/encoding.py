"""``Encoding``: which items are encoded in a step, and who may compute with them.

    item   ┌ piece 0 ┬ piece 1 ┬ piece 2 ┐      one piece: the whole item, as most often
    step   n ─────── n ─────── n+1 ──────       the chunk that needs it comes in step n+1

An item is encoded piece by piece, in order, and counts as there when its last piece has been asked
for. While any running sequence decodes, a step has ``max_encode_pieces_per_step`` pieces for all
items together, so that no token waits for more. Where a chunk would need a piece beyond these,
it ends before that piece's item, and the sequence goes on with the item in the next step.
"""

from __future__ import annotations

from sensorium.scheduler.config import SchedulerConfig
from sensorium.scheduler.encoder_book import EncoderBook
from sensorium.scheduler.pins import EncoderPins
from sensorium.scheduler.sequence import Sequence
from sensorium.scheduler.step import Step
from sensorium.types import Batch


class Encoding:
    """What the steps that are running encode, and what the next one may add.

    Attributes:
        book: the embeddings that the runner keeps.
        pins: which sequence holds which of them.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.book = EncoderBook(config.encoder_cache_bytes)
        self.pins = EncoderPins(self.book, chunked=config.chunked_prefill)
        self._max_pieces = config.max_encode_pieces_per_step
        # key → the sequence that has it encoded, its life, and in how many running steps.
        self._under_way: dict[bytes, tuple[Sequence, int, int]] = {}

    @property
    def is_under_way(self) -> bool:
        """Whether any running step encodes."""
        return bool(self._under_way)

    def advance(self, sequence: Sequence, stop: int, step: Step) -> int:
        """Has encoded what a chunk up to ``stop`` needs; returns how far the chunk gets."""
        start = sequence.num_computed
        if self._under_way:
            stop = self._stop_before_unknown(sequence, stop)
            if stop == start:
                return start
        stop = self.pins.stop_in_room(sequence, stop)
        if stop == start:
            step.lacks_room.append(sequence)
            step.admits = False
            return start
        max_pieces = self._max_pieces - step.num_pieces if step.decodes else None
        stop, runs = self.pins.pin_chunk(sequence, stop, max_pieces)
        for use, pieces in runs:
            step.add_encode(sequence, use, pieces)
        return stop

    def dispatch(self, step: Step) -> None:
        """The step is about to be launched."""
        for task in step.encode:
            sequence, life = step.sequences[task.request_id]
            count = self._under_way.get(task.key, (sequence, life, 0))[2]
            self._under_way[task.key] = sequence, life, count + 1

    def take_in(self, batch: Batch) -> None:
        """A step has been carried out."""
        for task in batch.encode:
            sequence, life, count = self._under_way.pop(task.key)
            if count > 1:
                self._under_way[task.key] = sequence, life, count - 1

    def _stop_before_unknown(self, sequence: Sequence, stop: int) -> int:
        """How far a chunk gets without an item that another's step is still encoding."""
        start = sequence.num_computed
        for use in sequence.layout.needed(start, stop):
            owner = self._under_way.get(use.key)
            if owner is not None and owner[:2] != (sequence, sequence.num_lives):
                return self.pins.stop_before(sequence, use)
        return stop
