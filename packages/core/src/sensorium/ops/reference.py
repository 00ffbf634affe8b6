"""Attention in plain torch: the definition of correct, and the fallback.

Scores and softmax are float32 for half-precision inputs. Work is cut into blocks so that
memory stays bounded whatever the lengths.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sensorium.ops.attention import AttentionBatch, AttentionLayout, AttentionSpec
from sensorium.ops.rope import apply_rope

#: Scores held at once at most (256 MiB of float32).
MAX_SCORES = 2**26
#: Key positions gathered at once at most when several sequences decode together.
MAX_GATHERED = 2**16


class ReferenceAttention:
    """The plain-torch backend; it supports everything."""

    name: ClassVar[str] = "reference"
    captures: ClassVar[bool] = False

    def lacks(self, spec: AttentionSpec, layout: AttentionLayout) -> str | None:
        """None, always."""
        return None

    def store_kv(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """As ``AttentionBackend.store_kv``."""
        kv[0].flatten(0, 1).index_copy_(0, slot_mapping, k)
        kv[1].flatten(0, 1).index_copy_(0, slot_mapping, v)

    def rope_store_kv(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        """As ``AttentionBackend.rope_store_kv``."""
        cos, sin = cos[:, None], sin[:, None]
        self.store_kv(apply_rope(k, cos, sin), v, kv, slot_mapping)
        return apply_rope(q, cos, sin)

    def paged_attention(
        self, q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec
    ) -> Tensor:
        """As ``AttentionBackend.paged_attention``.

        Sequences with one query each are gathered into padded groups; the others are
        computed one by one. A lone query is its sequence's last token, so its reach could only
        show it keys that a window hides: then it counts among the others.
        """
        out = torch.empty_like(q)
        decoding = []
        row = 0
        for b, (query_len, seq_len) in enumerate(batch.lengths):
            if query_len == 1 and (batch.reach is None or spec.window is None):
                decoding.append((seq_len, b, row))
            elif query_len:
                keys, values = _gather(kv, batch.page_table[b : b + 1], seq_len)
                queries = slice(row, row + query_len)
                reach = None if batch.reach is None else batch.reach[queries]
                mask = causal_mask(query_len, seq_len, spec.window, reach, q.device)
                out[queries] = _attend_blocked(q[None, queries], keys, values, mask, spec)[0]
            row += query_len
        for group in _groups(sorted(decoding)):
            _decode(out, q, kv, batch, spec, group)
        return out


def varlen_reference(
    q: Tensor, k: Tensor, v: Tensor, borders: Sequence[int], *, scale: float, causal: bool
) -> Tensor:
    """``varlen_attention`` in plain torch.

    Sequences of one length are computed together, so that many small windows cost few calls.

    Args:
        borders: 0 … N, ascending.
    """
    starts_by_length: dict[int, list[int]] = defaultdict(list)
    for start, stop in itertools.pairwise(borders):
        if stop > start:
            starts_by_length[stop - start].append(start)
    spec = AttentionSpec(scale)
    out = torch.empty_like(q)
    for length, starts in starts_by_length.items():
        offsets = torch.arange(length, device=q.device)
        for some in _split(starts, max(1, MAX_SCORES // (length * length * q.shape[1]))):
            rows = torch.tensor(some, device=q.device)[:, None] + offsets
            mask = offsets[:, None] >= offsets if causal else None
            out[rows] = _attend_blocked(q[rows], k[rows], v[rows], mask, spec)
    return out


def _split(items: list[int], size: int) -> Iterator[list[int]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _groups(decoding: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Cuts sequences, sorted by length, so that a padded group isn't larger than allowed."""
    group: list[tuple[int, int, int]] = []
    for entry in decoding:
        if group and (len(group) + 1) * entry[0] > MAX_GATHERED:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _decode(
    out: Tensor,
    q: Tensor,
    kv: Tensor,
    batch: AttentionBatch,
    spec: AttentionSpec,
    group: list[tuple[int, int, int]],
) -> None:
    """One query for each (seq_len, b, row) of ``group``, which is sorted by length."""
    longest = group[-1][0]
    sequences = torch.tensor([b for _, b, _ in group], device=q.device)
    rows = torch.tensor([row for _, _, row in group], device=q.device)
    keys, values = _gather(kv, batch.page_table[sequences], longest)
    lens = batch.seq_lens[sequences][:, None, None]
    at = torch.arange(longest, device=q.device)
    mask = at < lens
    # Behind a sequence's end lies whatever was there before; 0 · NaN would be NaN.
    values = values.masked_fill(~mask.transpose(1, 2)[..., None], 0)
    if spec.window is not None:
        mask &= at >= lens - spec.window
    out[rows] = _attend(q[rows][:, None], keys, values, mask, spec)[:, 0]


def _gather(kv: Tensor, page_table: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The first ``length`` keys and values, (B, length, num_kv_heads, head_size)."""
    pages = page_table[:, : -(-length // kv.shape[2])]
    return kv[0][pages].flatten(1, 2)[:, :length], kv[1][pages].flatten(1, 2)[:, :length]


def causal_mask(
    query_len: int, seq_len: int, window: int | None, reach: Tensor | None, device: torch.device
) -> Tensor:
    """Which keys each of the last ``query_len`` tokens sees: (query_len, seq_len), bool.

    A query sees the keys up to its own, the last ``window`` of them, and all keys in its
    ``reach``, (query_len, 2).
    """
    key = torch.arange(seq_len, device=device)
    query = torch.arange(seq_len - query_len, seq_len, device=device)[:, None]
    mask = key <= query
    if window is not None:
        mask &= key > query - window
    if reach is not None:
        mask |= (key >= reach[:, :1]) & (key < reach[:, 1:])
    return mask


def _attend_blocked(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, spec: AttentionSpec
) -> Tensor:
    """``_attend`` over blocks of queries; ``mask`` is (Lq, Lk)."""
    batch, num_queries, num_heads, _ = q.shape
    block = max(1, MAX_SCORES // (batch * num_heads * max(1, k.shape[1])))
    if num_queries <= block:
        return _attend(q, k, v, mask, spec)
    parts = []
    for start in range(0, num_queries, block):
        rows = slice(start, start + block)
        parts.append(_attend(q[:, rows], k, v, None if mask is None else mask[rows], spec))
    return torch.cat(parts, dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, spec: AttentionSpec) -> Tensor:
    """softmax(scale · q kᵀ) v, computed in float32 (float64 stays).

    Args:
        q: (B, Lq, num_heads, head_size); k, v: (B, Lk, num_kv_heads, head_size).
        mask: broadcasts to (B, Lq, Lk); every query sees at least one key.
    """
    batch, num_queries, num_heads, head_size = q.shape
    num_kv_heads = k.shape[2]
    wide = q.dtype if q.dtype == torch.float64 else torch.float32
    # (B, kv heads, group · Lq, size): the heads that share a key head are rows of one matrix.
    grouped = q.to(wide).view(batch, num_queries, num_kv_heads, -1, head_size)
    grouped = grouped.permute(0, 2, 3, 1, 4).flatten(2, 3)
    keys = k.to(wide).permute(0, 2, 3, 1)
    scores = (grouped @ keys) * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    if mask is not None:
        shape = scores.shape
        hidden = ~(mask[None] if mask.dim() == 2 else mask)[:, None]
        scores = scores.view(batch, num_heads, num_queries, -1)
        scores = scores.masked_fill(hidden, float("-inf")).view(shape)
    weights = scores.softmax(-1)
    result = weights @ v.to(wide).permute(0, 2, 1, 3)
    result = result.view(batch, num_heads, num_queries, head_size).transpose(1, 2)
    return result.to(q.dtype)
