"""``AttentionBackend``: the interface between the decoder's layers and attention.

Knows the layout of the KV cache and what a step's attention is given; computes nothing.

The KV cache of one layer is one tensor of shape (2, num_pages, page_size, num_kv_heads,
head_size): keys first, values second. Token i of a sequence lies in the page
``page_table[i // page_size]`` at slot ``i % page_size``; its flat slot is
``page · page_size + i % page_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What a layer's attention is, the same for every step.

    Attributes:
        scale: factor of the scores.
        window: a query sees the last ``window`` keys, its own included; None: all.
        soft_cap: scores s become cap · tanh(s / cap) before the softmax; None: not.
        non_causal: whether a batch may hold non-causal ranges.
    """

    scale: float
    window: int | None = None
    soft_cap: float | None = None
    non_causal: bool = False


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """What all layers' attention is computed on.

    Attributes:
        device, dtype: of queries, keys and values.
        head_size: elements of a head.
        page_size: tokens of a page.
    """

    device: torch.device
    dtype: torch.dtype
    head_size: int
    page_size: int


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """B sequences whose N new tokens (queries) lie one behind another.

    The queries of a sequence are its last tokens: with ``query`` new tokens and ``total``
    in all, its first query is token ``total - query``.

    Attributes:
        query_start: (B + 1,) int32: sequence b's queries are rows query_start[b] …
            query_start[b + 1] - 1.
        seq_lens: (B,) int32: tokens in the cache once this step's are stored.
        page_table: (B, max_pages) int32: padded with any valid page.
        slot_mapping: (N,) int64: flat slots where the new tokens' keys and values go.
        max_query_len, max_seq_len: the largest of each, 0 without sequences.
        lengths: (query, total) of each sequence on the host.
        reach: (N, 2) int32 where some tokens see each other in both directions, whatever
            the window: the run of keys [first, last), in tokens of the sequence, that is the
            union of the non-causal ranges a query lies in, and holds the query itself; a
            query in none has its own place alone. None: there is no such range in the batch.

    What a query sees is one run of keys: those that causality and the window leave, and its
    reach, have the query itself in common.
    """

    query_start: Tensor
    seq_lens: Tensor
    page_table: Tensor
    slot_mapping: Tensor
    max_query_len: int
    max_seq_len: int
    lengths: tuple[tuple[int, int], ...]
    reach: Tensor | None = None


class AttentionBackend(Protocol):
    """One implementation. It keeps no state."""

    name: ClassVar[str]
    #: Whether its calls can be captured in a device graph, and replayed for other lengths.
    captures: ClassVar[bool]

    def lacks(self, spec: AttentionSpec, layout: AttentionLayout) -> str | None:
        """The part of ``spec`` or ``layout`` that it doesn't support, in words; None if it supports
        all."""

    def store_kv(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """Writes new keys and values into one layer's cache.

        Args:
            k, v: (N, num_kv_heads, head_size).
            kv: one layer's cache.
            slot_mapping: (N,) int64.
        """

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
        """Turns queries and keys by their positions and stores keys and values.

        Args:
            q: (N, num_heads, head_size); it may be changed in place.
            k, v: (N, num_kv_heads, head_size).
            cos, sin: (N, rotary_size / 2) of ``Rope.tables``, in ``q``'s dtype.
            kv, slot_mapping: as for ``store_kv``.

        Returns:
            The turned queries, shaped as ``q``.
        """

    def paged_attention(
        self, q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec
    ) -> Tensor:
        """Attends from each query to its sequence's keys in the cache.

        Query head h uses key head h · num_kv_heads // num_heads (grouped-query attention).

        Args:
            q: (N, num_heads, head_size).
            kv: one layer's cache, this step's keys and values already stored.

        Returns:
            (N, num_heads, head_size) in ``q``'s dtype.
        """
