"""``DecodeGraphs``: the forward pass of steps in which every sequence decodes one token, captured.

A launch costs the host more than a small kernel costs the device; a captured graph is one launch.
There is a graph for each of some batch sizes; a step takes the next larger one, and the rows that
are left over decode a token nobody asked for into a page that nobody reads.

Four numbers a row are all that the host sends: the token, or ``PENDING``; its request's slot; its
place in the sequence; its position. Everything else follows on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sensorium.models.decoder import Decoder
from sensorium.ops import AttentionBatch
from sensorium.runner.page_tables import PageTables
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.upload import upload
from sensorium.types import Chunk


def batch_sizes(max_num_seqs: int) -> list[int]:
    """The sizes that are captured: 1, 2, 4, 8, then steps of 8 to 64, of 16 to 256, then of 64."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_num_seqs + 64, 64)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


def is_decode(chunk: Chunk, of: RunningRequest) -> bool:
    """Whether a chunk is one generated token."""
    return len(chunk.token_ids) == 1 and chunk.start >= len(of.request.token_ids)


class DecodeGraphs:
    """Graphs over one decoder, KV cache and set of tables.

    Args:
        last_tokens: (num_slots + 1,) int64: what each slot's request sampled last.
        axes: of positions.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv_cache: Tensor,
        tables: PageTables,
        last_tokens: Tensor,
        *,
        axes: int,
        page_size: int,
        sizes: Sequence[int],
    ) -> None:
        self._decoder = decoder
        self._kv_cache = kv_cache
        self._tables = tables
        self._last_tokens = last_tokens
        self._axes = axes
        self._page_size = page_size
        self._sizes = sorted(sizes)
        self._spare_slot = len(tables.on_device) - 1
        largest = self._sizes[-1]
        device = kv_cache.device
        self._input = torch.zeros(4 * largest, dtype=torch.int32, device=device)
        self._hidden = torch.zeros(
            largest, decoder.config.hidden_size, dtype=decoder.dtype, device=device
        )
        self._pool = torch.cuda.graph_pool_handle()
        # The largest first: the others then fit into the memory that it took.
        self._graphs = {size: self._capture(size) for size in reversed(self._sizes)}

    def run(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> Tensor | None:
        """Decodes one token for each chunk; their pages stand in the tables already.

        Returns:
            (len(chunks), hidden): the decoder's output, which the next call overwrites. None: there
            is no graph of so many sequences.
        """
        count = len(chunks)
        size = next((size for size in self._sizes if size >= count), None)
        if size is None:
            return None
        rows = np.zeros((4, size), dtype=np.int32)
        rows[1, count:] = self._spare_slot
        rows[0, :count] = [chunk.token_ids[0] for chunk in chunks]
        rows[1, :count] = [of.slot for of in running]
        rows[2, :count] = [chunk.start for chunk in chunks]
        rows[3, :count] = [of.request.position_delta for of in running]
        rows[3, :count] += rows[2, :count]
        [sent] = upload([rows.reshape(-1)], self._input.device)
        self._input[: 4 * size].copy_(sent)
        self._graphs[size].replay()
        return self._hidden[:count]

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        rows = self._input[: 4 * size].view(4, size)
        rows.zero_()
        rows[1] = self._spare_slot
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(rows)  # libraries choose and allocate now, not while capturing
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._forward(rows)
        return graph

    def _forward(self, rows: Tensor) -> None:
        given, slots, index, position = rows
        size = len(slots)
        token_ids = torch.where(given < 0, self._last_tokens[slots.long()], given)
        page_table = self._tables.on_device.index_select(0, slots)
        page = page_table.gather(1, (index // self._page_size).long()[:, None])[:, 0]
        batch = AttentionBatch(
            query_start=torch.arange(size + 1, dtype=torch.int32, device=rows.device),
            seq_lens=index + 1,
            page_table=page_table,
            slot_mapping=page.long() * self._page_size + index % self._page_size,
            max_query_len=1,
            max_seq_len=page_table.shape[1] * self._page_size,
            lengths=(),
        )
        hidden = self._decoder.embed(token_ids)
        positions = position.expand(self._axes, size)
        self._hidden[:size].copy_(self._decoder(hidden, positions, self._kv_cache, batch))
