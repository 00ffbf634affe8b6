"""Refuses requests that can never run, before they wait, with the numbers."""

from __future__ import annotations

from sensorium.errors import LimitError, RequestError
from sensorium.scheduler.config import SchedulerConfig
from sensorium.scheduler.layout import ItemUse, Layout
from sensorium.types import EngineRequest


def check_fits(request: EngineRequest, layout: Layout, config: SchedulerConfig) -> None:
    """Checks that a request fits the engine when nothing else runs.

    Raises:
        LimitError: it can't fit.
        RequestError: the prompt is empty.
    """
    _check_length(request, config)
    if config.chunked_prefill:
        _check_atomic(layout, config)
    _check_embeddings(layout, config)


def _check_length(request: EngineRequest, config: SchedulerConfig) -> None:
    num_tokens = len(request.token_ids)
    if num_tokens == 0:
        raise RequestError("The prompt is empty; it must have at least one token.")
    # The last token is sampled and never computed.
    may_fill_it = request.embeds or request.max_tokens <= 1
    if num_tokens + (0 if may_fill_it else 1) > config.max_model_len:
        raise LimitError(
            f"The prompt has {num_tokens} tokens; the context holds {config.max_model_len}, "
            "at least one of them for the answer."
        )
    num_pages = -(-num_tokens // config.page_size)
    if num_pages > config.num_pages:
        raise LimitError(
            f"The prompt has {num_tokens} tokens, which take {num_pages} KV pages of "
            f"{config.page_size}; the KV cache has {config.num_pages}. "
            "Give the engine more kv_cache_memory_bytes or shorten the prompt."
        )


def _check_atomic(layout: Layout, config: SchedulerConfig) -> None:
    longest = max((stop - start for start, stop in layout.atomic), default=0)
    if longest > config.max_num_batched_tokens:
        raise LimitError(
            f"The prompt has a stretch of {longest} tokens that must be computed in one step; "
            f"a step computes {config.max_num_batched_tokens} at most. "
            "Raise max_num_batched_tokens or use a smaller item."
        )


def _check_embeddings(layout: Layout, config: SchedulerConfig) -> None:
    budget = config.encoder_cache_bytes
    for use in layout.uses:
        if use.item.embed_bytes > budget:
            raise LimitError(
                f"The embedding of {item_label(use)} ({use.item.num_tokens} tokens) "
                f"takes {use.item.embed_bytes} bytes; the encoder cache holds {budget}. "
                "Raise mm_encoder_cache_gb or use a smaller item."
            )
    together = layout.peak_bytes + layout.kept_bytes
    if together > budget:
        raise LimitError(
            f"The prompt needs embeddings of {together} bytes at one time; the encoder cache "
            f"holds {budget}. Raise mm_encoder_cache_gb or use fewer or smaller items."
        )


def item_label(use: ItemUse) -> str:
    """How messages name an item: its kind, and which of its kind in the prompt it is."""
    return f"{use.item.kind} {use.item.index}"
