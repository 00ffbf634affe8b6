"""Computes how many KV pages fit into memory, and how long a context they allow."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from sensorium.config import GIB, EngineConfig
from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError
from sensorium.types import KVShape

logger = logging.getLogger("sensorium.runner")

#: Largest KV cache on the CPU, unless an option sets its size.
MAX_CPU_KV_BYTES = 4 * GIB


def kv_shape(decoder: DecoderConfig, page_size: int, dtype: torch.dtype) -> KVShape:
    """What one page holds."""
    return KVShape(
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_size=decoder.head_size,
        page_size=page_size,
        dtype_bytes=dtype.itemsize,
    )


def wanted_context(config: EngineConfig, decoder: DecoderConfig) -> int:
    """``max_model_len``, or what the checkpoint was made for.

    Raises:
        ConfigError: more than the checkpoint was made for.
    """
    if config.max_model_len is None:
        return decoder.max_positions
    if config.max_model_len > decoder.max_positions:
        raise ConfigError(
            f"max_model_len is {config.max_model_len}; the checkpoint was made for at most "
            f"{decoder.max_positions} tokens."
        )
    return config.max_model_len


def fit(config: EngineConfig, shape: KVShape, kv_bytes: int, context: int) -> tuple[int, int]:
    """Pages in ``kv_bytes``, and the context they allow.

    One sequence must be able to fill the context. Where the caller left its length open, it
    shrinks to what there is room for.

    Returns:
        (num_pages, max_model_len).

    Raises:
        ConfigError: there is no room for the context that was asked for.
    """
    num_pages = kv_bytes // shape.page_bytes
    room = num_pages * shape.page_size
    if room >= context:
        return num_pages, context
    if config.max_model_len is not None or num_pages < 1:
        raise ConfigError(
            f"The KV cache of {kv_bytes} bytes holds {room} tokens of this model, fewer than the "
            f"context of {context}; lower max_model_len or raise kv_cache_memory_bytes."
        )
    logger.warning("the context is cut from %d to %d tokens to fit the KV cache", context, room)
    return num_pages, room


def cpu_kv_bytes(config: EngineConfig, shape: KVShape, context: int) -> int:
    """Room for every running sequence's whole context, within 4 GiB and a quarter of memory."""
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    pages_each = -(-context // shape.page_size)
    wanted = config.max_num_seqs * pages_each * shape.page_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(wanted, MAX_CPU_KV_BYTES, memory // 4)


def device_kv_bytes(
    config: EngineConfig,
    device: torch.device,
    reserved_bytes: int,
    worst_step: Callable[[], int],
) -> int:
    """What is left of the engine's share of an accelerator's memory.

    The share is this engine's own: two engines of 0.4 each fit on one device. Where other processes
    leave less, the share is what they leave, less a twentieth that stays free.

    Args:
        reserved_bytes: what the encoder cache may grow to.
        worst_step: computes the largest step, whose peak is measured; returns what stays taken
            besides, between steps.

    Raises:
        ConfigError: nothing is left.
    """
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    kept_bytes = worst_step()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) + kept_bytes
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    share = min(int(total * config.gpu_memory_utilization), (total - others) * 19 // 20)
    left = share - peak - reserved_bytes
    if left <= 0:
        raise ConfigError(
            f"gpu_memory_utilization is {config.gpu_memory_utilization}: of {total} bytes this "
            f"engine may take {share} (others hold {others}); weights, the largest step and graphs "
            f"take {peak}, media embeddings {reserved_bytes}; nothing is left for the KV cache."
        )
    return left
