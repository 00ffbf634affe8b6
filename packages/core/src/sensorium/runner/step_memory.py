"""``StepMemory``: the tensors that every forward pass reads and writes, at addresses that never
change.

Recorded passes (``decode_graphs``, ``prefill_graphs``, ``decode_programs``) rely on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensorium.models.decoder import Decoder
from sensorium.runner.page_tables import PageTables


@dataclass(frozen=True, slots=True)
class StepMemory:
    """One decoder, KV cache and set of tables.

    Attributes:
        kv_cache: (num_layers, 2, num_pages, page_size, num_kv_heads, head_size); its last page is
            spare.
        tables: the page table of each slot; the spare slot, behind them, has the spare page.
        last_tokens: (num_slots + 1,) int64: what each slot's request sampled last.
        axes: of positions.
    """

    decoder: Decoder
    kv_cache: Tensor
    tables: PageTables
    last_tokens: Tensor
    axes: int

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.kv_cache.shape[3]

    @property
    def spare_slot(self) -> int:
        """The slot of padding rows."""
        return len(self.tables.on_device) - 1

    @property
    def spare_page(self) -> int:
        """The page that padding rows write to and no request reads."""
        return self.kv_cache.shape[2] - 1

    @property
    def max_pages(self) -> int:
        """Pages of the longest request."""
        return self.tables.on_device.shape[1]

    @property
    def max_len(self) -> int:
        """Tokens that these hold."""
        return self.max_pages * self.page_size

    def hidden_rows(self, count: int) -> Tensor:
        """(count, hidden) zeros, to be embeddings or hidden states."""
        width, dtype = self.decoder.config.hidden_size, self.decoder.dtype
        return torch.zeros(count, width, dtype=dtype, device=self.kv_cache.device)


def fitting(sizes: Sequence[int], count: int) -> int | None:
    """The smallest of ``sizes``, which ascend, that holds ``count``; None: they are too small."""
    return next((size for size in sizes if size >= count), None)
