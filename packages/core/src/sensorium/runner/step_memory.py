"""``StepMemory``: the tensors that every forward pass reads and writes, at addresses that never
change.

Recorded passes (``decode_graphs``, ``prefill_graphs``, ``decode_programs``) rely on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.models.decoder import Decoder
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.upload import upload
from sensorium.types import Chunk


class PageTables:
    """The page tables of all running requests.

    A row for each slot, and a spare one behind them whose every page is ``spare_page``. A table
    only grows while its request runs, so a step sends only its new pages.

    Args:
        num_slots: requests that run at once at most.
        max_pages: pages of the longest request.
        spare_page: what rows are padded with; what is written there is never read.

    Attributes:
        on_device: (num_slots + 1, max_pages) int32.
    """

    def __init__(
        self, num_slots: int, max_pages: int, spare_page: int, device: torch.device
    ) -> None:
        shape = (num_slots + 1, max_pages)
        self.on_device = torch.full(shape, spare_page, dtype=torch.int32, device=device)
        self._num_known = [0] * num_slots

    def forget(self, slot: int) -> None:
        """Clears a slot for its next request."""
        self._num_known[slot] = 0

    def update(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> None:
        """Sends the pages that are new in ``chunks``, whose requests are ``running``."""
        width = self.on_device.shape[1]
        places: list[int] = []
        pages: list[int] = []
        for chunk, of in zip(chunks, running, strict=True):
            known, total = self._num_known[of.slot], len(chunk.pages)
            if total > known:
                first = of.slot * width
                places.extend(range(first + known, first + total))
                pages.extend(chunk.pages[known:])
                self._num_known[of.slot] = total
        if places:
            arrays = np.array(places, dtype=np.int64), np.array(pages, dtype=np.int32)
            where, what = upload(arrays, self.on_device.device)
            self.on_device.view(-1).index_copy_(0, where, what)


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
