"""``DecodePrograms``: on the CPU, the forward pass of steps that compute generated tokens alone.

Like ``DecodeGraphs``, with ``Program`` in a graph's place. A number of rows is recorded by the
first step that needs it; a step uses the next larger number, whose padding rows decode a token that
is discarded, into the spare page. Steps that can't be recorded (a layer of plain torch) are
computed like all others.

A chunk has several tokens where a grammar forces them. Each is a row of its own, as if it were
another sequence with the same pages that ends there: every layer stores the keys and values of all
rows before any row attends to them.
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

#: Rows of the programs. With more rows, the work of a step far outweighs the cost of launching it.
SIZES = (1, 2, *range(4, 65, 4))


class DecodePrograms:
    """Programs over one ``StepMemory``."""

    def __init__(self, memory: StepMemory) -> None:
        self._memory = memory
        self._programs: dict[int, tuple[_Inputs, Program] | None] = {}

    def takes(self, chunk: Chunk, of: RunningRequest) -> bool:
        """Whether a chunk is generated tokens alone."""
        return chunk.start >= len(of.request.token_ids)

    def run(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> Tensor | None:
        """Computes the tokens of the chunks, whose pages stand in the tables already.

        Returns:
            (N, hidden): the decoder's output for all N tokens, which the next call overwrites.
            None: there is no program for so many.
        """
        count = sum(len(chunk.token_ids) for chunk in chunks)
        size = fitting(SIZES, count)
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
            logger.info("decoding %d rows is not recorded: %s", size, error)
            return None
        self._programs[size] = inputs, program
        return program.result[: sum(len(chunk.token_ids) for chunk in chunks)]

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
        lengths = [len(chunk.token_ids) for chunk in chunks]
        count, size = sum(lengths), len(inputs.hidden)
        given, index, position = np.zeros((3, size), dtype=np.int64)
        slots = np.full(size, memory.spare_slot)
        given[:count] = [token_id for chunk in chunks for token_id in chunk.token_ids]
        index[:count] = [i for chunk in chunks for i in range(chunk.start, chunk.stop)]
        slots[:count] = np.repeat([of.slot for of in running], lengths)
        position[:count] = np.repeat([of.request.position_delta for of in running], lengths)
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
