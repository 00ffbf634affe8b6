"""The interface between the decoder's layers and what computes their attention.

Knows the layout of the KV cache and what a step's attention is given; computes nothing.

The KV cache of one layer is one tensor of shape (2, num_pages, page_size, num_kv_heads,
head_size): keys first, values second. Token i of a sequence lies in the page
``page_table[i // page_size]`` at slot ``i % page_size``; its flat slot is
``page · page_size + i % page_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

#: Half-open ranges of token indices of one sequence.
Ranges = tuple[tuple[int, int], ...]


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
        non_causal: for each sequence the ranges whose tokens see each other in both
            directions, whatever the window; () if there is none in the whole batch.
    """

    query_start: Tensor
    seq_lens: Tensor
    page_table: Tensor
    slot_mapping: Tensor
    max_query_len: int
    max_seq_len: int
    lengths: tuple[tuple[int, int], ...]
    non_causal: tuple[Ranges, ...] = ()


class AttentionBackend(Protocol):
    """One implementation. It keeps no state."""

    name: ClassVar[str]

    def lacks(self, spec: AttentionSpec) -> str | None:
        """What of ``spec`` it can't do, in words; None if it can do all of it."""

    def store_kv(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """Writes new keys and values into one layer's cache.

        Args:
            k, v: (N, num_kv_heads, head_size).
            kv: one layer's cache.
            slot_mapping: (N,) int64.
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
