"""``Step``: a batch in the making."""

from __future__ import annotations

from sensorium.scheduler.layout import ItemUse
from sensorium.scheduler.sequence import Sequence
from sensorium.types import Chunk, EncodeTask


class Step:
    """What has been decided for one step so far.

    Attributes:
        budget: tokens that may still be added.
        sequences: those that have a chunk or an item to encode in it, by id, each with the
            number of its life.
        chunks, encode: as in ``Batch``.
        admits: whether waiting requests may still be admitted; False once a sequence was preempted,
            or got no chunk for lack of tokens or encoder room.
        lacks_room: the sequences that the encoder budget stopped.
        has_prefill: whether some sequence prefills, or has an item encoded for its prefill.
        decodes: whether any running sequence decodes, here or in a step that is running.
        num_pieces: pieces of items that are encoded.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.sequences: dict[str, tuple[Sequence, int]] = {}
        self.chunks: list[Chunk] = []
        self.encode: list[EncodeTask] = []
        self.admits = True
        self.lacks_room: list[Sequence] = []
        self.has_prefill = False
        self.decodes = False
        self.num_pieces = 0

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.request_id in self.sequences

    def add_chunk(self, sequence: Sequence, stop: int) -> None:
        """Lets the sequence compute its tokens up to ``stop``."""
        self.has_prefill = self.has_prefill or sequence.is_prefilling
        chunk = sequence.advance(stop)
        self.sequences[sequence.request_id] = sequence, sequence.num_lives
        self.chunks.append(chunk)
        self.budget = max(0, self.budget - len(chunk.token_ids))

    def add_encode(self, sequence: Sequence, use: ItemUse, pieces: tuple[int, int]) -> None:
        """Lets the runner encode a run of an item's pieces with the sequence's features."""
        self.has_prefill = True
        self.sequences[sequence.request_id] = sequence, sequence.num_lives
        self.encode.append(EncodeTask(sequence.request_id, use.index, use.key, pieces))
        self.num_pieces += pieces[1] - pieces[0]
