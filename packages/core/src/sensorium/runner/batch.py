"""``FlatBatch``: a step's chunks as the flat tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sensorium.ops import AttentionBatch
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.step_memory import StepMemory
from sensorium.runner.upload import upload
from sensorium.types import PENDING, Chunk, EngineRequest, MediaSpan, Positions


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
        embedded_rows: (M,) int64: the rows of all of ``embedded``, one behind another.
        wanted: (R,) int64: the rows that chunks want, one behind another.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    embedded: tuple[EmbeddedRows, ...]
    embedded_rows: Tensor
    wanted: Tensor


def flatten(
    chunks: Sequence[Chunk],
    running: Sequence[RunningRequest],
    memory: StepMemory,
) -> FlatBatch:
    """Builds the tensors of one forward pass over ``chunks``, whose requests are ``running``.

    Args:
        memory: in whose tables the chunks' pages already stand.
    """
    page_size, last_tokens = memory.page_size, memory.last_tokens
    ids, positions, slot_mapping, embedded = [], [], [], []
    pending: list[tuple[int, int]] = []
    row = 0
    for chunk, of in zip(chunks, running, strict=True):
        token_ids = np.array(chunk.token_ids, dtype=np.int64)
        if chunk.start < of.media_end:
            for replaced in embedded_rows(of.request, chunk.start, chunk.stop):
                token_ids[replaced.rows] = 0
                embedded.append(EmbeddedRows(replaced.key, replaced.rows + row, replaced.sources))
        ids.append(token_ids)
        positions.append(chunk_positions(of.request, chunk.start, chunk.stop, memory.axes))
        slot_mapping.append(_slot_mapping(chunk, page_size))
        row += len(token_ids)
        if chunk.token_ids[-1] == PENDING:
            pending.append((row - 1, of.slot))
    lengths = tuple((len(chunk.token_ids), chunk.stop) for chunk in chunks)
    query_start = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum([query for query, _ in lengths], out=query_start[1:])
    rows = [replaced.rows for replaced in embedded]
    arrays = [
        np.concatenate(ids),
        np.concatenate(positions, axis=1),
        np.concatenate(slot_mapping),
        query_start,
        np.array([total for _, total in lengths], dtype=np.int32),
        np.array([of.slot for of in running], dtype=np.int64),
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.array(wanted_rows(chunks), dtype=np.int64),
        np.array(pending, dtype=np.int64).reshape(-1, 2).T,
    ]
    reach = _reach(chunks, running)
    if reach is not None:
        arrays.append(reach)
    sent = upload(arrays, last_tokens.device)
    if pending:
        pending_rows, pending_slots = sent[8]
        sent[0].index_copy_(0, pending_rows, last_tokens[pending_slots])
    max_seq_len = max(total for _, total in lengths)
    max_pages = -(-max_seq_len // page_size)
    attention = AttentionBatch(
        query_start=sent[3],
        seq_lens=sent[4],
        page_table=memory.tables.on_device[:, :max_pages].index_select(0, sent[5]),
        slot_mapping=sent[2],
        max_query_len=max(query for query, _ in lengths),
        max_seq_len=max_seq_len,
        lengths=lengths,
        reach=None if reach is None else sent[9],
    )
    return FlatBatch(sent[0], sent[1], attention, tuple(embedded), sent[6], sent[7])


def wanted_rows(chunks: Sequence[Chunk]) -> list[int]:
    """Which rows of all their tokens, one behind another, the chunks want."""
    wanted: list[int] = []
    row = 0
    for chunk in chunks:
        row += len(chunk.token_ids)
        wanted += range(row - chunk.num_rows, row)
    return wanted


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


def _slot_mapping(chunk: Chunk, page_size: int) -> np.ndarray:
    """The flat cache slots of the chunk's tokens."""
    first = chunk.start // page_size
    pages = np.array(chunk.pages[first : -(-chunk.stop // page_size)], dtype=np.int64)
    index = np.arange(chunk.start, chunk.stop)
    return pages[index // page_size - first] * page_size + index % page_size


def _reach(chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> np.ndarray | None:
    """``AttentionBatch.reach``, or None if no chunk touches a non-causal span.

    A span counts once all of it is computed; non-causal ones are atomic and never cut.
    """
    if not any(span.non_causal for of in running for span in of.request.spans):
        return None
    parts, found = [], False
    for chunk, of in zip(chunks, running, strict=True):
        index = np.arange(chunk.start, chunk.stop, dtype=np.int32)
        reach = np.stack([index, index + 1], axis=1)
        for span in of.request.spans:
            if not span.non_causal or span.end > chunk.stop or span.end <= chunk.start:
                continue
            inside = (index >= span.offset) & (index < span.end)
            reach[inside, 0] = np.minimum(reach[inside, 0], span.offset)
            reach[inside, 1] = np.maximum(reach[inside, 1], span.end)
            found = True
        parts.append(reach)
    return np.concatenate(parts) if found else None
