"""``DecodeGraphs``: the forward pass of steps in which every sequence decodes one token, captured.

A launch costs the host more than a small kernel costs the device; a captured graph is one launch.
There is a graph for each of some batch sizes; a step uses the next larger one, whose padding rows
decode a token that is discarded, into the spare page.

The host sends four numbers a row: the token, or ``PENDING``; its request's slot; its place in the
sequence; its position. The device derives everything else.

Choosing the best token of each row is a graph of its own, since masks may be made before it. A step
that asks for anything else (a draw, penalties, log-probabilities) is sampled kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import AttentionBatch
from sensorium.runner.capture import Pool, capture
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import greedy
from sensorium.runner.step_memory import StepMemory, fitting
from sensorium.runner.upload import upload
from sensorium.types import Chunk


def batch_sizes(max_num_seqs: int) -> list[int]:
    """The sizes that are captured: 1, 2, 4, 8, then steps of 8 to 64, of 16 to 256, then of 64."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_num_seqs + 64, 64)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


class DecodeGraphs:
    """Graphs over one ``StepMemory``.

    Args:
        sizes: numbers of sequences.
        pool: the memory that graphs share.
    """

    def __init__(self, memory: StepMemory, sizes: Sequence[int], pool: Pool) -> None:
        self._memory = memory
        self._sizes = sorted(sizes)
        largest, device = self._sizes[-1], memory.kv_cache.device
        self._input = torch.zeros(4 * largest, dtype=torch.int32, device=device)
        self._hidden = memory.hidden_rows(largest)
        self._chosen = torch.zeros(largest, dtype=torch.long, device=device)
        # The largest first, so that the others fit into its memory.
        self._graphs = {size: self._capture(size, pool) for size in reversed(self._sizes)}
        self._choices = {
            size: capture(partial(self._choose, size), pool) for size in reversed(self._sizes)
        }

    def takes(self, chunk: Chunk, of: RunningRequest) -> bool:
        """Whether a chunk is one generated token, and its row is wanted."""
        is_one = len(chunk.token_ids) == chunk.num_rows == 1
        return is_one and chunk.start >= len(of.request.token_ids)

    def run(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> Tensor | None:
        """Decodes one token for each chunk; their pages stand in the tables already.

        Returns:
            (len(chunks), hidden): the decoder's output, which the next call overwrites. None: there
            is no graph of so many sequences.
        """
        count = len(chunks)
        size = fitting(self._sizes, count)
        if size is None:
            return None
        rows = np.zeros((4, size), dtype=np.int32)
        rows[1, count:] = self._memory.spare_slot
        rows[0, :count] = [chunk.token_ids[0] for chunk in chunks]
        rows[1, :count] = [of.slot for of in running]
        rows[2, :count] = [chunk.start for chunk in chunks]
        rows[3, :count] = [of.request.position_delta for of in running]
        rows[3, :count] += rows[2, :count]
        [sent] = upload([rows.reshape(-1)], self._input.device)
        self._input[: 4 * size].copy_(sent)
        self._graphs[size].replay()
        return self._hidden[:count]

    def choose_best(self, count: int) -> Tensor:
        """The best tokens of the ``count`` rows of the last ``run``, noted in ``last_tokens``.

        Returns:
            (count,) int64: ``Choice.chosen``.
        """
        size = fitting(self._sizes, count)
        assert size is not None, "there was no run of so many rows"
        self._choices[size].replay()
        return self._chosen[:count].clone()

    def _choose(self, size: int) -> None:
        memory = self._memory
        slots = self._input[: 4 * size].view(4, size)[1].long()
        chosen = greedy(memory.decoder.logits(self._hidden[:size]))
        memory.last_tokens.index_copy_(0, slots, chosen.clamp_min(0))
        self._chosen[:size].copy_(chosen)

    def _capture(self, size: int, pool: Pool) -> torch.cuda.CUDAGraph:
        rows = self._input[: 4 * size].view(4, size)
        rows.zero_()
        rows[1] = self._memory.spare_slot
        return capture(lambda: self._forward(rows), pool)

    def _forward(self, rows: Tensor) -> None:
        memory, page_size = self._memory, self._memory.page_size
        given, slots, index, position = rows
        size = len(slots)
        token_ids = torch.where(given < 0, memory.last_tokens[slots.long()], given)
        page_table = memory.tables.on_device.index_select(0, slots)
        page = page_table.gather(1, (index // page_size).long()[:, None])[:, 0]
        batch = AttentionBatch(
            query_start=torch.arange(size + 1, dtype=torch.int32, device=rows.device),
            seq_lens=index + 1,
            page_table=page_table,
            slot_mapping=page.long() * page_size + index % page_size,
            max_query_len=1,
            max_seq_len=memory.max_len,
            lengths=(),
        )
        hidden = memory.decoder.embed(token_ids)
        positions = position.expand(memory.axes, size)
        self._hidden[:size].copy_(memory.decoder(hidden, positions, memory.kv_cache, batch))
