"""``PageTables``: the page tables of all running requests, on the device.

A table only grows while its request runs, so a step sends only its new pages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.upload import upload
from sensorium.types import Chunk


class PageTables:
    """A row for each slot, and a spare one behind them whose every page is ``spare_page``.

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
