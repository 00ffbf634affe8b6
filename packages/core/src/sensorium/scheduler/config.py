"""The scheduler's limits, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The limits within which steps are made.

    Args:
        page_size: tokens of one KV page.
        num_pages: KV pages there are, numbered from 0.
        max_num_batched_tokens: tokens computed in one step at most.
        max_num_seqs: sequences running at once at most.
        max_model_len: tokens of prompt and answer together at most.
        prefix_caching: whether full pages are found again by what they hold.
        chunked_prefill: False: what a sequence has to compute before its next token is
            computed in one step, if need be one of more than ``max_num_batched_tokens``
            that holds nothing else.
        encoder_cache_bytes: what all embeddings together may take on the device.
        max_encode_pieces_per_step: pieces of items encoded in one step at most while any running
            sequence decodes; an undivided item is one piece.
    """

    page_size: int
    num_pages: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    prefix_caching: bool
    chunked_prefill: bool
    encoder_cache_bytes: int
    max_encode_pieces_per_step: int = 8


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """The state at one moment, and counts since the start.

    Attributes:
        num_running, num_waiting: sequences.
        num_pages, num_used_pages, num_known_pages: all; held by sequences; findable by
            what they hold, used or not.
        encoder_used_bytes, encoder_pinned_bytes: embeddings kept; of them, still needed.
        num_prefix_queries, num_prefix_hits: tokens looked up when sequences first ran, and
            those of them that were found.
        num_preemptions: how often a sequence lost its pages.
        page_size, encoder_cache_bytes: as ``SchedulerConfig`` has them.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    num_used_pages: int
    num_known_pages: int
    encoder_used_bytes: int
    encoder_pinned_bytes: int
    num_prefix_queries: int
    num_prefix_hits: int
    num_preemptions: int
    page_size: int
    encoder_cache_bytes: int
