"""From the scheduler's chunks to the flat tensors of one forward pass.

    chunks       [a: 3 tokens][b: 1 token][c: 2 tokens]
    rows          0   1   2    3           4   5          N = 6, query_start = 0 3 4 6

Knows where tokens, positions, pages and media rows go; computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import AttentionBatch
from sensorium.ops.attention import Ranges
from sensorium.runner.state import RunningRequest, span_mask
from sensorium.types import Chunk, Positions


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows of one item's embedding that replace tokens of a chunk.

    Attributes:
        key: names the embedding.
        rows: the chunk's tokens that are replaced, from 0 at its first.
        source: as many rows of the embedding, half-open.
    """

    key: bytes
    rows: tuple[int, ...]
    source: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a forward pass of N tokens takes.

    Attributes:
        token_ids: (N,) int64; 0 where an embedding row comes.
        positions: (axes, N) int64.
        attention: where each sequence's tokens are.
        placements: flat first row of the chunk, and the placement.
        sample_rows: (S,) int64: rows whose next token is sampled.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    placements: tuple[tuple[int, Placement], ...]
    sample_rows: Tensor


def placements(running: RunningRequest, start: int, stop: int) -> list[Placement]:
    """Which tokens of [start, stop) are replaced, and by which rows of which items."""
    found = []
    for span in running.request.spans:
        first, last = max(start, span.offset), min(stop, span.end)
        if first >= last:
            continue
        mask = span_mask(span)
        here = np.flatnonzero(mask[first - span.offset : last - span.offset])
        if len(here):
            row = span.item_slice[0] + int(mask[: first - span.offset].sum())
            key = running.request.items[span.item].key
            rows = tuple(int(i) for i in here + (first - start))
            found.append(Placement(key, rows, (row, row + len(here))))
    return found


def build_inputs(
    chunks: Sequence[Chunk],
    running: Mapping[str, RunningRequest],
    *,
    num_axes: int,
    page_size: int,
    device: torch.device,
) -> Inputs:
    """Lays the chunks one behind another."""
    token_ids: list[int] = []
    positions: list[Positions] = []
    slots: list[Positions] = []
    placed: list[tuple[int, Placement]] = []
    sample_rows: list[int] = []
    ranges: list[Ranges] = []
    for chunk in chunks:
        request = running[chunk.request_id]
        row = len(token_ids)
        ids = list(chunk.token_ids)
        for placement in placements(request, chunk.start, chunk.stop):
            placed.append((row, placement))
            for i in placement.rows:
                ids[i] = 0
        token_ids += ids
        positions.append(request.positions(chunk.start, chunk.stop, num_axes))
        slots.append(_slots(chunk, page_size))
        ranges.append(_non_causal(request, chunk))
        if chunk.samples:
            sample_rows.append(len(token_ids) - 1)
    lengths = tuple((len(chunk.token_ids), chunk.stop) for chunk in chunks)
    starts = np.cumsum([0, *(query for query, _ in lengths)])
    attention = AttentionBatch(
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        seq_lens=torch.tensor([t for _, t in lengths], dtype=torch.int32, device=device),
        page_table=_page_table(chunks, device),
        slot_mapping=torch.tensor(np.concatenate(slots), device=device),
        max_query_len=max(query for query, _ in lengths),
        max_seq_len=max(total for _, total in lengths),
        lengths=lengths,
        non_causal=tuple(ranges) if any(ranges) else (),
    )
    return Inputs(
        token_ids=torch.tensor(token_ids, dtype=torch.int64, device=device),
        positions=torch.tensor(np.concatenate(positions, axis=1), device=device),
        attention=attention,
        placements=tuple(placed),
        sample_rows=torch.tensor(sample_rows, dtype=torch.int64, device=device),
    )


def _slots(chunk: Chunk, page_size: int) -> Positions:
    """The flat cache slots of the chunk's tokens."""
    index = np.arange(chunk.start, chunk.stop, dtype=np.int64)
    pages = np.asarray(chunk.pages, dtype=np.int64)
    return pages[index // page_size] * page_size + index % page_size


def _page_table(chunks: Sequence[Chunk], device: torch.device) -> Tensor:
    """(B, max_pages) int32, padded with page 0."""
    width = max(len(chunk.pages) for chunk in chunks)
    table = np.zeros((len(chunks), width), dtype=np.int32)
    for i, chunk in enumerate(chunks):
        table[i, : len(chunk.pages)] = chunk.pages
    return torch.tensor(table, device=device)


def _non_causal(running: RunningRequest, chunk: Chunk) -> Ranges:
    """The ranges in which the chunk's tokens see each other in both directions."""
    return tuple(
        (span.offset, span.end)
        for span in running.request.spans
        if span.non_causal and span.offset < chunk.stop and span.end > chunk.start
    )
