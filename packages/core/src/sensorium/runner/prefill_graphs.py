"""``PrefillGraphs``: the forward pass of steps of few tokens, captured.

For a few hundred tokens the host takes longer to launch the kernels one by one than the device
takes to run them. Such steps are a short prompt, a prompt most of whose pages are cached, or one of
these among decoding sequences. Graphs exist for a few numbers of tokens; a step uses the next
larger one.

    rows       │ sequence 0 │ sequence 1 │ … │  padding rows  │
    sequences  │     0      │     1      │ … │  spare page    │ empty │ … │ empty │

Padding rows form a sequence of their own in the spare page, so that no kernel reads uninitialised
memory. The input is embeddings, those of items in place; the output is hidden states. The number
and lengths of the sequences are read on the device.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import AttentionBatch
from sensorium.runner.batch import FlatBatch
from sensorium.runner.capture import Pool, capture
from sensorium.runner.step_memory import StepMemory, fitting
from sensorium.runner.upload import upload

#: Sequences of a step at most. Attention starts blocks for this many, empty ones too.
MAX_SEQS = 32
_SIZES = (16, 32, 64, 128, 192, 256, 384, 512)


def prefill_sizes(max_num_batched_tokens: int) -> list[int]:
    """The numbers of tokens that are captured: with more, the device is busier than the host."""
    most = min(max_num_batched_tokens, _SIZES[-1])
    return [*(size for size in _SIZES if size < most), most]


class PrefillGraphs:
    """Graphs over one ``StepMemory``.

    Args:
        sizes: numbers of tokens.
        pool: the memory that graphs share.
    """

    def __init__(self, memory: StepMemory, sizes: list[int], pool: Pool) -> None:
        self._memory = memory
        self._sizes = sorted(sizes)
        largest, device = self._sizes[-1], memory.kv_cache.device
        self._hidden, self._out = memory.hidden_rows(largest), memory.hidden_rows(largest)
        self._positions = torch.zeros(memory.axes, largest, dtype=torch.long, device=device)
        rows = torch.arange(largest, device=device)
        self._spare = memory.spare_page * memory.page_size + rows % memory.page_size
        self._slot_mapping = self._spare.clone()
        # Where queries start, and how long sequences are: they come together.
        self._borders = torch.zeros(2 * MAX_SEQS + 1, dtype=torch.int32, device=device)
        # Wide enough for all rows of a step in the spare page.
        max_pages = max(memory.max_pages, -(-largest // memory.page_size))
        self._page_table = torch.full(
            (MAX_SEQS, max_pages), memory.spare_page, dtype=torch.int32, device=device
        )
        # The largest first, so that the others fit into its memory.
        self._graphs = {
            size: capture(partial(self._forward, size), pool) for size in reversed(self._sizes)
        }

    def run(self, hidden: Tensor, flat: FlatBatch) -> Tensor | None:
        """``Decoder.forward`` of a step.

        Args:
            hidden: (N, hidden): the step's embeddings.

        Returns:
            (N, hidden), which the next call overwrites. None: there is no graph for such a step.
        """
        count, num_seqs = len(hidden), len(flat.attention.lengths)
        size = fitting(self._sizes, count)
        if size is None or flat.attention.reach is not None:
            return None
        lengths = flat.attention.lengths
        if count < size:
            lengths = (*lengths, (size - count, size - count))
        if len(lengths) > MAX_SEQS:
            return None
        self._hidden[:count].copy_(hidden)
        self._positions[:, :count].copy_(flat.positions)
        self._slot_mapping[:count].copy_(flat.attention.slot_mapping)
        known = flat.attention.page_table
        self._page_table[:num_seqs, : known.shape[1]].copy_(known)
        [borders] = upload([_borders(lengths)], hidden.device)
        self._borders.copy_(borders)
        if count < size:
            self._hidden[count:size].zero_()
            self._slot_mapping[count:size].copy_(self._spare[count:size])
            self._page_table[num_seqs].fill_(self._memory.spare_page)
        self._graphs[size].replay()
        return self._out[:count]

    def _forward(self, size: int) -> None:
        memory = self._memory
        batch = AttentionBatch(
            query_start=self._borders[: MAX_SEQS + 1],
            seq_lens=self._borders[MAX_SEQS + 1 :],
            page_table=self._page_table,
            slot_mapping=self._slot_mapping[:size],
            max_query_len=size,
            max_seq_len=self._page_table.shape[1] * memory.page_size,
            lengths=(),
        )
        positions = self._positions[:, :size]
        out = memory.decoder(self._hidden[:size], positions, memory.kv_cache, batch)
        self._out[:size].copy_(out)


def _borders(lengths: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Sequences' first rows and total lengths, and as many empty ones as are missing."""
    borders = np.zeros(2 * MAX_SEQS + 1, dtype=np.int32)
    ends = np.cumsum([query for query, _ in lengths])
    borders[1 : len(lengths) + 1] = ends
    borders[len(lengths) + 1 : MAX_SEQS + 1] = ends[-1]
    borders[MAX_SEQS + 1 : MAX_SEQS + 1 + len(lengths)] = [total for _, total in lengths]
    return borders
