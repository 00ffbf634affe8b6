"""``DecodePrograms``: on the CPU, the pass of steps in which every sequence decodes one token.

Like ``DecodeGraphs``, with ``Program`` in a graph's place. A batch size is recorded by the first
step that needs it; a step uses the next larger size, whose padding rows decode a token that is
discarded, into the spare page. Steps that can't be recorded (a layer of plain torch) are computed
like all others.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.models.decoder import RopeTables
from sensorium.ops import AttentionBatch
from sensorium.ops.program import NotRecordedError, Program
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.step_memory import StepMemory, fitting
from sensorium.types import Chunk

logger = logging.getLogger("sensorium.runner")

#: Sequences of the largest program: with more, the work of a step far outweighs the cost of
#: launching it.
MAX_SIZE = 64


class DecodePrograms:
    """Programs over one ``StepMemory``.

    Args:
        sizes: numbers of sequences; those above ``MAX_SIZE`` are replaced by it.
    """

    def __init__(self, memory: StepMemory, sizes: Sequence[int]) -> None:
        self._memory = memory
        self._sizes = sorted({min(size, MAX_SIZE) for size in sizes})
        self._programs: dict[int, tuple[_Inputs, Program] | None] = {}

    def run(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> Tensor | None:
        """Decodes one token for each chunk; their pages stand in the tables already.

        Returns:
            (len(chunks), hidden): the decoder's output, which the next call overwrites. None: there
            is no program for so many sequences.
        """
        count = len(chunks)
        size = fitting(self._sizes, count)
        if size is None:
            return None
        if size not in self._programs:
            return self._record(size, chunks, running)
        recorded = self._programs[size]
        if recorded is None:
            return None
        inputs, program = recorded
        self._fill(inputs, chunks, running)
        return program.run()[:count]

    def _record(
        self, size: int, chunks: Sequence[Chunk], running: Sequence[RunningRequest]
    ) -> Tensor | None:
        """Computes and records the first step of a size."""
        self._programs[size] = None
        inputs = self._inputs(size)
        self._fill(inputs, chunks, running)
        batch = AttentionBatch(
            query_start=inputs.query_start,
            seq_lens=inputs.seq_lens,
            page_table=inputs.page_table,
            slot_mapping=inputs.slot_mapping,
            max_query_len=1,
            max_seq_len=self._memory.max_len,
            lengths=(),
        )
        layers, kv_cache = self._memory.decoder.through_layers, self._memory.kv_cache
        try:
            program = Program(lambda: layers(inputs.hidden, inputs.rope_tables, kv_cache, batch))
        except NotRecordedError as error:
            logger.info("decoding %d sequences is not recorded: %s", size, error)
            return None
        self._programs[size] = inputs, program
        return program.result[: len(chunks)]

    def _inputs(self, size: int) -> _Inputs:
        memory = self._memory
        return _Inputs(
            memory.hidden_rows(size),
            memory.decoder.rope_tables(torch.zeros(memory.axes, size, dtype=torch.long)),
            query_start=torch.arange(size + 1, dtype=torch.int32),
            slot_mapping=torch.zeros(size, dtype=torch.long),
            seq_lens=torch.ones(size, dtype=torch.int32),
            page_table=torch.zeros(size, memory.max_pages, dtype=torch.int32),
        )

    def _fill(
        self, inputs: _Inputs, chunks: Sequence[Chunk], running: Sequence[RunningRequest]
    ) -> None:
        """A step's rows and padding rows: each of these a first token, in the spare page."""
        memory, page_size = self._memory, self._memory.page_size
        tables = memory.tables.on_device.numpy()
        count, size = len(chunks), len(inputs.hidden)
        given, index, position = np.zeros((3, size), dtype=np.int64)
        slots = np.full(size, memory.spare_slot)
        given[:count] = [chunk.token_ids[0] for chunk in chunks]
        slots[:count] = [of.slot for of in running]
        index[:count] = [chunk.start for chunk in chunks]
        position[:count] = [of.request.position_delta for of in running]
        position += index
        token_ids = np.where(given < 0, memory.last_tokens.numpy()[slots], given)
        pages = tables[slots, index // page_size].astype(np.int64)
        num_pages = int(index.max()) // page_size + 1
        inputs.page_table.numpy()[:, :num_pages] = tables[slots, :num_pages]
        inputs.slot_mapping.numpy()[:] = pages * page_size + index % page_size
        inputs.seq_lens.numpy()[:] = index + 1
        inputs.hidden.copy_(memory.decoder.embed(torch.from_numpy(token_ids)))
        positions = torch.from_numpy(position).expand(memory.axes, size)
        copied = zip(
            itertools.chain(*inputs.rope_tables),
            itertools.chain(*memory.decoder.rope_tables(positions)),
            strict=True,
        )
        for kept, new in copied:
            kept.copy_(new)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a program reads, where it lay when it was recorded.

    Attributes:
        hidden: (size, hidden): the tokens' embeddings; the program changes them.
        rope_tables: of the tokens' positions.
        query_start, slot_mapping, seq_lens, page_table: as in ``AttentionBatch``.
    """

    hidden: Tensor
    rope_tables: RopeTables
    query_start: Tensor
    slot_mapping: Tensor
    seq_lens: Tensor
    page_table: Tensor
