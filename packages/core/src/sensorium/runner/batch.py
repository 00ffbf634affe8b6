"""``FlatBatch``: a step's chunks as the flat tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import AttentionBatch
from sensorium.runner.request_state import RunningRequest
from sensorium.types import Chunk, EngineRequest, MediaSpan, Positions


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Rows of the batch that a media embedding replaces.

    Attributes:
        key: of the embedding.
        rows: which rows of the batch, (M,) int64.
        sources: which rows of the embedding go there, (M,) int64.
    """

    key: bytes
    rows: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """N tokens of all chunks, one behind another.

    Attributes:
        token_ids: (N,) int64, 0 where an embedding replaces the token's own.
        positions: (axes, N) int64.
        attention: which token belongs to which sequence, and where keys and values go.
        embedded: what is replaced.
        samples: rows whose logits are wanted, (S,) int64, in the order of the chunks.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    embedded: tuple[EmbeddedRows, ...]
    samples: Tensor


def flatten(
    chunks: Sequence[Chunk],
    requests: Mapping[str, RunningRequest],
    *,
    axes: int,
    page_size: int,
    device: torch.device,
) -> FlatBatch:
    """Builds the tensors of one forward pass over ``chunks``."""
    ids, positions, slots, embedded, samples = [], [], [], [], []
    row = 0
    for chunk in chunks:
        request = requests[chunk.request_id].request
        token_ids = np.array(chunk.token_ids, dtype=np.int64)
        for replaced in embedded_rows(request, chunk.start, chunk.stop):
            token_ids[replaced.rows] = 0
            embedded.append(EmbeddedRows(replaced.key, replaced.rows + row, replaced.sources))
        ids.append(token_ids)
        positions.append(chunk_positions(request, chunk.start, chunk.stop, axes))
        slots.append(_slots(chunk, page_size))
        row += len(token_ids)
        if chunk.samples:
            samples.append(row - 1)
    return FlatBatch(
        token_ids=_on(np.concatenate(ids), device),
        positions=_on(np.concatenate(positions, axis=1), device),
        attention=_attention(chunks, requests, np.concatenate(slots), page_size, device),
        embedded=tuple(embedded),
        samples=torch.tensor(samples, dtype=torch.long, device=device),
    )


def chunk_positions(request: EngineRequest, start: int, stop: int, axes: int) -> Positions:
    """(axes, stop - start): the prompt's own positions, then index + delta on every axis."""
    prompt = len(request.token_ids)
    rest = np.arange(max(start, prompt), stop) + request.position_delta
    rest = np.broadcast_to(rest, (axes, len(rest)))
    if start >= prompt:
        return rest.astype(np.int64)
    own_stop = min(stop, prompt)
    if request.positions is None:
        own = np.broadcast_to(np.arange(start, own_stop), (axes, own_stop - start))
    else:
        own = request.positions[:, start:own_stop]
    return np.concatenate([own, rest], axis=1).astype(np.int64)


def embedded_rows(request: EngineRequest, start: int, stop: int) -> Iterator[EmbeddedRows]:
    """What is replaced in the tokens start … stop-1; rows count from ``start``."""
    for span in request.spans:
        if span.offset >= stop or span.end <= start:
            continue
        mask = _mask(span)
        sources = span.item_slice[0] + np.cumsum(mask) - 1
        first, last = max(start, span.offset), min(stop, span.end)
        here = np.flatnonzero(mask[first - span.offset : last - span.offset])
        if len(here):
            yield EmbeddedRows(
                key=request.items[span.item].key,
                rows=here + first - start,
                sources=sources[here + first - span.offset],
            )


def _mask(span: MediaSpan) -> np.ndarray:
    if span.is_embed is None:
        return np.ones(span.length, dtype=bool)
    return np.frombuffer(span.is_embed, dtype=np.uint8).astype(bool)


def _slots(chunk: Chunk, page_size: int) -> np.ndarray:
    """The flat cache slots of the chunk's tokens."""
    index = np.arange(chunk.start, chunk.stop)
    pages = np.array(chunk.pages, dtype=np.int64)
    return pages[index // page_size] * page_size + index % page_size


def _attention(
    chunks: Sequence[Chunk],
    requests: Mapping[str, RunningRequest],
    slots: np.ndarray,
    page_size: int,
    device: torch.device,
) -> AttentionBatch:
    lengths = tuple((len(chunk.token_ids), chunk.stop) for chunk in chunks)
    num_pages = [-(-chunk.stop // page_size) for chunk in chunks]
    table = np.zeros((len(chunks), max(num_pages)), dtype=np.int32)
    for i, chunk in enumerate(chunks):
        table[i, : num_pages[i]] = chunk.pages[: num_pages[i]]
    query_start = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum([query for query, _ in lengths], out=query_start[1:])
    return AttentionBatch(
        query_start=_on(query_start, device),
        seq_lens=_on(np.array([total for _, total in lengths], dtype=np.int32), device),
        page_table=_on(table, device),
        slot_mapping=_on(slots, device),
        max_query_len=max(query for query, _ in lengths),
        max_seq_len=max(total for _, total in lengths),
        lengths=lengths,
        reach=_reach(chunks, requests, device),
    )


def _reach(
    chunks: Sequence[Chunk], requests: Mapping[str, RunningRequest], device: torch.device
) -> Tensor | None:
    """``AttentionBatch.reach``, or None if no chunk touches a non-causal span.

    A span counts once all of it is computed; non-causal ones are atomic and never cut.
    """
    parts, found = [], False
    for chunk in chunks:
        index = np.arange(chunk.start, chunk.stop, dtype=np.int32)
        reach = np.stack([index, index + 1], axis=1)
        for span in requests[chunk.request_id].request.spans:
            if not span.non_causal or span.end > chunk.stop or span.end <= chunk.start:
                continue
            inside = (index >= span.offset) & (index < span.end)
            reach[inside, 0] = np.minimum(reach[inside, 0], span.offset)
            reach[inside, 1] = np.maximum(reach[inside, 1], span.end)
            found = True
        parts.append(reach)
    return _on(np.concatenate(parts), device) if found else None


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
